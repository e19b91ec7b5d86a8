/** `npm run batch` as a process of its own, which is stopped, killed and started again. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { statSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join, resolve } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { readSettings } from "../../src/batch/server/settings.ts";
import { UsageError } from "../../src/lib/usage-error.ts";
import { makeSubmission, makeTexts } from "./batch-data.ts";
import { poll, setUpHarness } from "./batch-harness.ts";
import { neverRespond, progressMessages, secret, stop, submit } from "./fake-worker.ts";

const harness = setUpHarness();
const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
});

/** Starts the program; `url` is where it listens, once it does, and null where it ends instead. */
async function startProcess(env: Record<string, string> = {}) {
  const child = spawn(process.execPath, [resolve(import.meta.dirname, "../../src/batch.ts")], {
    env: {
      PATH: process.env.PATH ?? "",
      BATCH_SECRET: secret,
      GRAFT_URL: harness.worker.url,
      BATCH_PORT: "0",
      WORK_DIR: harness.folder,
      ...env,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.push(child);
  const output = { out: "", err: "" };
  const ended = once(child, "close").then(([code]) => code as number | null);
  const hasStarted = Promise.withResolvers<string>();
  child.stdout?.on("data", (text) => {
    output.out += text;
    const [, url] = /^Batch endpoint listens on (http:\S+)$/m.exec(output.out) ?? [];
    if (url !== undefined) hasStarted.resolve(url);
  });
  child.stderr?.on("data", (text) => {
    output.err += text;
  });
  const url = await Promise.race([hasStarted.promise, ended.then(() => null)]);
  return { child, said: output, ended, url: url ?? "" };
}

const lines = makeTexts(60);

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

describe("a batch endpoint that is killed", () => {
  it("tells at its next start which attempts are lost, and of nothing else", async () => {
    neverRespond(harness.worker, (path) => path === "data");
    const { child, said, ended, url } = await startProcess();
    const submission = harness.worker.addJob(makeSubmission(), lines);
    expect((await submit(url, submission)).status).toBe(202);
    await poll(() => harness.worker.calls.length).toBe(1);
    const record = join(harness.folder, `${submission.id}.1.json`);
    expect(statSync(record).mode & 0o777).toBe(0o600);
    const pid = Number(/"event":"started".*"pid":(\d+)/.exec(said.out)?.[1]);
    expect(isAlive(pid)).toBe(true);
    child.kill("SIGKILL");
    await ended;
    await poll(() => isAlive(pid)).toBe(false);
    writeFileSync(join(harness.folder, "half.json.new"), "{");
    writeFileSync(join(harness.folder, `${submission.id}.7.json`), "{");

    const restartedProcess = await startProcess();
    expect(await harness.worker.waitForMessage("failed", submission.id)).toEqual({
      id: submission.id,
      attempt: 1,
      type: "failed",
      message: "The batch endpoint stopped before this attempt ended.",
      retryable: true,
      endpoint_restarted: true,
    });
    await poll(() => harness.records()).toEqual([]);
    const orphaned = { status: "ended", endpoint_restarted: true };
    expect(await (await submit(restartedProcess.url, submission)).json()).toMatchObject(orphaned);
    expect(await (await stop(restartedProcess.url, submission, "cancel")).json()).toMatchObject(orphaned);
    expect(harness.worker.messages(submission.id)).toHaveLength(1);
  });

  it("between two folds goes on with the next", async () => {
    const { child, ended, url } = await startProcess();
    const job = makeSubmission({
      comparison: "cross_fit",
      hyperparameters: { l2: 1, class_weight: null, lexical: true, seed: 1 },
      edge_budget: { bytes: 5.6e7, operations: 3e8 },
    });
    const submission = harness.worker.addJob(job, lines);
    harness.worker.intercept = ({ message }) => {
      if (message?.type !== "progress" || !message.message.startsWith("Fold 2 of 5")) return null;
      child.kill("SIGKILL");
      return new Promise<Response>(() => undefined);
    };
    await submit(url, submission);
    await ended;
    const checkpoint = harness.worker
      .messages(submission.id)
      .flatMap((message) => (message.type === "checkpoint" ? [message.artifact] : []))
      .at(-1);
    harness.worker.intercept = () => null;
    const restartedProcess = await startProcess();
    const next = harness.worker.addJob({ ...submission, attempt: 2, checkpoint: checkpoint ?? null }, lines);
    await poll(async () => (await submit(restartedProcess.url, next)).status).toBe(202);
    await harness.worker.waitForMessage("finished", submission.id, 2);
    const { judgement } = await harness.worker.waitForMessage("evaluated", submission.id, 2);
    expect(judgement.test_examples).toBe(60);
    expect(progressMessages(harness.worker.messages(submission.id, 2), "Trained")).toEqual([
      ...Array.from({ length: 4 }, () => [
        expect.stringMatching(/^Trained the frozen head on \d+ examples\.$/),
        "Trained the fine-tuned candidate on 48 examples.",
      ]).flat(),
      "Trained the fine-tuned candidate on 60 examples.",
    ]);
  });

  it("tells it once the Worker is there again", async () => {
    neverRespond(harness.worker, (path) => path === "data");
    const first = await startProcess();
    const submission = harness.worker.addJob(makeSubmission(), lines);
    await submit(first.url, submission);
    first.child.kill("SIGKILL");
    await first.ended;
    let isRefused = 0;
    harness.worker.intercept = (_, c) => (isRefused++ < 1 ? c.json({}, 503) : null);
    await startProcess();
    await harness.worker.waitForMessage("failed", submission.id);
    expect(isRefused).toBe(2);
  });
});

describe("a batch endpoint that is stopped", () => {
  it.each(["SIGTERM", "SIGINT"] as const)("by %s hands back what is done, and ends", async (signal) => {
    const { child, said, ended, url } = await startProcess();
    const submission = harness.worker.addJob(makeSubmission({ edge_budget: { bytes: 5.6e7, operations: 2e9 } }), lines);
    harness.worker.intercept = ({ message }) => {
      if (message?.type !== "evaluated") return null;
      child.kill(signal);
      return new Promise<Response>(() => undefined);
    };
    await submit(url, submission);
    expect(await ended).toBe(0);
    const messageTypes = harness.worker.messages(submission.id).map(({ type }) => type);
    expect(messageTypes.at(-1)).toBe("stopped");
    expect(messageTypes).toContain("checkpoint");
    expect(messageTypes).not.toContain("finished");
    expect(harness.records()).toEqual([]);
    expect(said.err).toBe("");
    const [, ...logLines] = said.out.trim().split("\n");
    expect(logLines.map((line) => JSON.parse(line).event)).toEqual(["started", "stopping", "ended"]);
    for (const confidential of [submission.token, secret, "refund"]) expect(said.out).not.toContain(confidential);
  });

  it("waits no longer than it was told to, and leaves the rest to the next", async () => {
    neverRespond(harness.worker, () => true);
    const { child, ended, url } = await startProcess({ BATCH_GRACE_SECONDS: "1" });
    const submission = harness.worker.addJob(makeSubmission(), lines);
    await submit(url, submission);
    const before = performance.now();
    child.kill("SIGTERM");
    expect(await ended).toBe(0);
    expect(performance.now() - before).toBeLessThan(5_000);
    expect(harness.records()).toEqual([`${submission.id}.1.json`]);
    harness.worker.intercept = () => null;
    await startProcess();
    await harness.worker.waitForMessage("failed", submission.id);
  });

  it("ends at once when it is told twice", async () => {
    neverRespond(harness.worker, () => true);
    const { child, said, ended, url } = await startProcess();
    await submit(url, harness.worker.addJob(makeSubmission(), lines));
    child.kill("SIGTERM");
    await poll(() => said.out).toContain("stopping");
    child.kill("SIGTERM");
    expect(await ended).toBe(1);
  });
});

describe("a batch endpoint does not start", () => {
  it("on the work of another", async () => {
    await startProcess();
    const { said, ended } = await startProcess();
    expect(await ended).toBe(1);
    expect(said).toEqual({
      out: "",
      err: `Another batch endpoint works in '${harness.folder}'. Stop it, or set another WORK_DIR.\n`,
    });
  });

  it("on a port that is taken, or in what is no folder", async () => {
    const other = createServer().listen(0, "127.0.0.1");
    await once(other, "listening");
    const { port } = other.address() as AddressInfo;
    const conflictingRun = await startProcess({ BATCH_PORT: String(port) });
    expect([await conflictingRun.ended, conflictingRun.said.err]).toEqual([
      1,
      `BATCH_PORT ${port} of 127.0.0.1 is in use.\n`,
    ]);
    other.close();
    const file = join(harness.folder, "file");
    writeFileSync(file, "");
    const invalidRun = await startProcess({ WORK_DIR: file });
    expect(await invalidRun.ended).toBe(1);
    expect(invalidRun.said.err).toMatch(/^WORK_DIR '.*' cannot be used: .*\.\n$/);
  });

  const validRun = { BATCH_SECRET: secret, GRAFT_URL: "http://127.0.0.1:8787" };
  it.each<[Record<string, string | undefined>, string]>([
    [{ BATCH_SECRET: undefined }, "BATCH_SECRET is missing"],
    [{ BATCH_SECRET: "whsec_short" }, "BATCH_SECRET is not a secret"],
    [{ BATCH_SECRET: secret.slice(6) }, "BATCH_SECRET is not a secret"],
    [{ PREVIOUS_BATCH_SECRET: "x" }, "PREVIOUS_BATCH_SECRET is not a secret"],
    [{ BATCH_PREVIOUS_SECRET: "x" }, "BATCH_PREVIOUS_SECRET is not a secret"],
    [{ GRAFT_URL: "" }, "GRAFT_URL is missing"],
    [{ GRAFT_URL: "graft:8787" }, "GRAFT_URL is not an http: or https: URL"],
    [{ GRAFT_URL: "http://u:p@graft" }, "GRAFT_URL is not an http: or https: URL"],
    [{ BATCH_PORT: "99999" }, "BATCH_PORT is '99999', which is not a whole number from 0 to 65535."],
    [{ BATCH_JOBS: "0" }, "BATCH_JOBS is '0'"],
    [{ BATCH_JOBS: "1.5" }, "BATCH_JOBS is '1.5'"],
    [{ BATCH_SMALL_JOBS: "-1" }, "BATCH_SMALL_JOBS is '-1'"],
    [{ BATCH_MEMORY_BYTES: "2GB" }, "BATCH_MEMORY_BYTES is '2GB'"],
    [{ BATCH_OPERATIONS: "-1" }, "BATCH_OPERATIONS is '-1'"],
    [{ BATCH_GRACE_SECONDS: "soon" }, "BATCH_GRACE_SECONDS is 'soon'"],
    [{ BACKBONES: "{" }, "BACKBONES: is not JSON."],
  ])("with %j", (env, message) => {
    expect(() => readSettings({ ...validRun, ...env })).toThrow(message);
    expect(() => readSettings({ ...validRun, ...env })).toThrow(UsageError);
  });

  it("and says in one line why", async () => {
    const { said, ended } = await startProcess({ GRAFT_URL: "" });
    expect(await ended).toBe(1);
    expect(said.err).toBe("GRAFT_URL is missing: where the Worker is, such as http://127.0.0.1:8787.\n");
  });

  it("unless all is well", () => {
    expect(readSettings(validRun)).toMatchObject({
      host: "127.0.0.1",
      port: 8788,
      capacity: 1,
      smallCapacity: 1,
      workDir: resolve(".graft-batch"),
      budget: { bytes: 1.5e9, operations: 1e14 },
      graceMs: 30_000,
    });
    const extraEnv = {
      GRAFT_URL: "https://graft.example/base/",
      BATCH_OPERATIONS: "2e13",
    };
    expect(readSettings({ ...validRun, ...extraEnv })).toMatchObject({
      graftUrl: "https://graft.example/base",
      budget: { operations: 2e13 },
      secrets: [secret],
    });
  });

  const previousSecret = `whsec_${Buffer.from("the secret before that one").toString("base64")}`;
  it.each([
    ["PREVIOUS_BATCH_SECRET", { PREVIOUS_BATCH_SECRET: previousSecret }],
    ["its former name", { BATCH_PREVIOUS_SECRET: previousSecret }],
    ["both, the former name being ignored", { PREVIOUS_BATCH_SECRET: previousSecret, BATCH_PREVIOUS_SECRET: secret }],
  ])("unless all is well, and accepts the previous secret under %s", (_, env) => {
    expect(readSettings({ ...validRun, ...env }).secrets).toEqual([secret, previousSecret]);
  });
});
