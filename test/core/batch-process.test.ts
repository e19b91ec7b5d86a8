/** `npm run batch` as a process of its own, which is stopped, killed and started again. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { statSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join, resolve } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { Problem, readSettings } from "../../src/batch/server/settings.ts";
import { submissionOf, texts } from "./batch-data.ts";
import { harness, soon } from "./batch-harness.ts";
import { hang, secret, submit } from "./batch-worker.ts";

const h = harness();
const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
});

/** Starts the program; `url` is where it listens, once it does, and null where it ends instead. */
async function start(env: Record<string, string> = {}) {
  const child = spawn(process.execPath, [resolve(import.meta.dirname, "../../src/batch.ts")], {
    env: {
      PATH: process.env.PATH ?? "",
      BATCH_SECRET: secret,
      GRAFT_URL: h.worker.url,
      BATCH_PORT: "0",
      WORK_DIR: h.folder,
      ...env,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.push(child);
  const said = { out: "", err: "" };
  const ended = once(child, "close").then(([code]) => code as number | null);
  const listens = Promise.withResolvers<string>();
  child.stdout?.on("data", (text) => {
    said.out += text;
    const [, url] = /^Batch endpoint listens on (http:\S+)$/m.exec(said.out) ?? [];
    if (url !== undefined) listens.resolve(url);
  });
  child.stderr?.on("data", (text) => {
    said.err += text;
  });
  const url = await Promise.race([listens.promise, ended.then(() => null)]);
  return { child, said, ended, url: url ?? "" };
}

const lines = texts(60);

function lives(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

describe("a batch endpoint that is killed", () => {
  it("tells at its next start which attempts are lost, and of nothing else", async () => {
    hang(h.worker, (path) => path === "data");
    const { child, said, ended, url } = await start();
    const given = h.worker.offer(submissionOf(), lines);
    expect((await submit(url, given)).status).toBe(202);
    await soon(() => h.worker.calls.length).toBe(1);
    const record = join(h.folder, `${given.id}.1.json`);
    expect(statSync(record).mode & 0o777).toBe(0o600);
    const pid = Number(/"event":"started".*"pid":(\d+)/.exec(said.out)?.[1]);
    expect(lives(pid)).toBe(true);
    child.kill("SIGKILL");
    await ended;
    await soon(() => lives(pid)).toBe(false);
    writeFileSync(join(h.folder, "half.json.new"), "{");
    writeFileSync(join(h.folder, `${given.id}.7.json`), "{");

    const next = await start();
    expect(await h.worker.until("failed", given.id)).toEqual({
      id: given.id,
      attempt: 1,
      type: "failed",
      message: "The batch endpoint stopped before this attempt ended.",
      retryable: true,
    });
    await soon(() => h.records()).toEqual([]);
    expect(await (await submit(next.url, given)).json()).toMatchObject({ status: "ended" });
    expect(h.worker.messages(given.id)).toHaveLength(1);
  });

  it("tells it once the Worker is there again", async () => {
    hang(h.worker, (path) => path === "data");
    const first = await start();
    const given = h.worker.offer(submissionOf(), lines);
    await submit(first.url, given);
    first.child.kill("SIGKILL");
    await first.ended;
    let refused = 0;
    h.worker.meddle = (_, c) => (refused++ < 1 ? c.json({}, 503) : null);
    await start();
    await h.worker.until("failed", given.id);
    expect(refused).toBe(2);
  });
});

describe("a batch endpoint that is stopped", () => {
  it.each(["SIGTERM", "SIGINT"] as const)("by %s hands back what is done, and ends", async (signal) => {
    const { child, said, ended, url } = await start();
    const given = h.worker.offer(submissionOf({ edge_budget: { bytes: 5.6e7, operations: 2e9 } }), lines);
    h.worker.meddle = ({ told }) => {
      if (told?.type !== "evaluated") return null;
      child.kill(signal);
      return new Promise<Response>(() => undefined);
    };
    await submit(url, given);
    expect(await ended).toBe(0);
    const told = h.worker.messages(given.id).map(({ type }) => type);
    expect(told.at(-1)).toBe("stopped");
    expect(told).toContain("checkpoint");
    expect(told).not.toContain("finished");
    expect(h.records()).toEqual([]);
    expect(said.err).toBe("");
    const [, ...logged] = said.out.trim().split("\n");
    expect(logged.map((line) => JSON.parse(line).event)).toEqual(["started", "stopping", "ended"]);
    for (const kept of [given.token, secret, "refund"]) expect(said.out).not.toContain(kept);
  });

  it("waits no longer than it was told to, and leaves the rest to the next", async () => {
    hang(h.worker, () => true);
    const { child, ended, url } = await start({ BATCH_GRACE_SECONDS: "1" });
    const given = h.worker.offer(submissionOf(), lines);
    await submit(url, given);
    const before = performance.now();
    child.kill("SIGTERM");
    expect(await ended).toBe(0);
    expect(performance.now() - before).toBeLessThan(5_000);
    expect(h.records()).toEqual([`${given.id}.1.json`]);
    h.worker.meddle = () => null;
    await start();
    await h.worker.until("failed", given.id);
  });

  it("ends at once when it is told twice", async () => {
    hang(h.worker, () => true);
    const { child, said, ended, url } = await start();
    await submit(url, h.worker.offer(submissionOf(), lines));
    child.kill("SIGTERM");
    await soon(() => said.out).toContain("stopping");
    child.kill("SIGTERM");
    expect(await ended).toBe(1);
  });
});

describe("a batch endpoint does not start", () => {
  it("on the work of another", async () => {
    await start();
    const { said, ended } = await start();
    expect(await ended).toBe(1);
    expect(said).toEqual({
      out: "",
      err: `Another batch endpoint works in '${h.folder}'. Stop it, or set another WORK_DIR.\n`,
    });
  });

  it("on a port that is taken, or in what is no folder", async () => {
    const other = createServer().listen(0, "127.0.0.1");
    await once(other, "listening");
    const { port } = other.address() as AddressInfo;
    const taken = await start({ BATCH_PORT: String(port) });
    expect([await taken.ended, taken.said.err]).toEqual([1, `BATCH_PORT ${port} of 127.0.0.1 is in use.\n`]);
    other.close();
    const file = join(h.folder, "file");
    writeFileSync(file, "");
    const wrong = await start({ WORK_DIR: file });
    expect(await wrong.ended).toBe(1);
    expect(wrong.said.err).toMatch(/^WORK_DIR '.*' cannot be used: .*\.\n$/);
  });

  const good = { BATCH_SECRET: secret, GRAFT_URL: "http://127.0.0.1:8787" };
  it.each<[Record<string, string | undefined>, string]>([
    [{ BATCH_SECRET: undefined }, "BATCH_SECRET is missing"],
    [{ BATCH_SECRET: "whsec_short" }, "BATCH_SECRET is not a secret"],
    [{ BATCH_SECRET: secret.slice(6) }, "BATCH_SECRET is not a secret"],
    [{ BATCH_PREVIOUS_SECRET: "x" }, "BATCH_PREVIOUS_SECRET is not a secret"],
    [{ GRAFT_URL: "" }, "GRAFT_URL is missing"],
    [{ GRAFT_URL: "graft:8787" }, "GRAFT_URL is not an http: or https: URL"],
    [{ GRAFT_URL: "http://u:p@graft" }, "GRAFT_URL is not an http: or https: URL"],
    [{ BATCH_PORT: "99999" }, "BATCH_PORT is '99999', which is not a whole number from 0 to 65535."],
    [{ BATCH_JOBS: "0" }, "BATCH_JOBS is '0'"],
    [{ BATCH_JOBS: "1.5" }, "BATCH_JOBS is '1.5'"],
    [{ BATCH_MEMORY_BYTES: "2GB" }, "BATCH_MEMORY_BYTES is '2GB'"],
    [{ BATCH_OPERATIONS: "-1" }, "BATCH_OPERATIONS is '-1'"],
    [{ BATCH_GRACE_SECONDS: "soon" }, "BATCH_GRACE_SECONDS is 'soon'"],
    [{ BACKBONES: "{" }, "BACKBONES: is not JSON."],
  ])("with %j", (env, message) => {
    expect(() => readSettings({ ...good, ...env })).toThrow(message);
    expect(() => readSettings({ ...good, ...env })).toThrow(Problem);
  });

  it("and says in one line why", async () => {
    const { said, ended } = await start({ GRAFT_URL: "" });
    expect(await ended).toBe(1);
    expect(said.err).toBe("GRAFT_URL is missing: where the Worker is, such as http://127.0.0.1:8787.\n");
  });

  it("unless all is well", () => {
    expect(readSettings(good)).toMatchObject({
      host: "127.0.0.1",
      port: 8788,
      capacity: 1,
      workDir: resolve(".graft-batch"),
      budget: { bytes: 1.5e9, operations: 1e14 },
      graceMs: 30_000,
    });
    const more = { GRAFT_URL: "https://graft.example/base/", BATCH_OPERATIONS: "2e13", BATCH_PREVIOUS_SECRET: secret };
    expect(readSettings({ ...good, ...more })).toMatchObject({
      graftUrl: "https://graft.example/base",
      budget: { operations: 2e13 },
      secrets: [secret, secret],
    });
  });
});
