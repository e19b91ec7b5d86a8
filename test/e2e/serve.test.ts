import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { UsageError } from "../../src/lib/usage-error.ts";
import { createClient } from "../../src/sdk/client.ts";
import { buildWorker, serve } from "../../src/server/runtime.ts";
import { readServeOptions, readWorkerVariables } from "../../src/server/settings.ts";
import { embeddingOf, startEmbeddingServer } from "../process/embedding-server.ts";

const root = resolve(import.meta.dirname, "../..");
const folder = mkdtempSync(join(tmpdir(), "graft-serve-test-"));
const bundle = join(folder, "worker");
beforeAll(() => buildWorker(bundle));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const options = (state: string) => ({
  port: 0,
  stateDir: join(folder, state),
  adminKey: "operator",
  log: () => undefined,
});

/** Runs what `npm start` runs, until it ends by itself. */
async function startServer(env: Record<string, string>) {
  const child = execFile(process.execPath, [join(root, "src/serve.ts")], {
    cwd: root,
    env: { ...process.env, ...env },
  });
  let [out, err] = ["", ""];
  child.stdout?.on("data", (text) => (out += text));
  child.stderr?.on("data", (text) => (err += text));
  const [code] = (await once(child, "close")) as [number | null];
  return { code, out, err };
}

const entry = {
  kind: "openai",
  id: "remote",
  base_url: "http://127.0.0.1:9/v1",
  model: "m",
  dimensions: 4,
  secret: "REMOTE_KEY",
};

test("the secrets that BACKBONES names reach the Worker from the environment", async () => {
  const remote = await startEmbeddingServer();
  const BACKBONES = JSON.stringify([{ ...entry, base_url: remote.url }]);
  const variables = readWorkerVariables({ BACKBONES, REMOTE_KEY: "sk-remote", UNRELATED: "stays outside" });
  expect(variables).toEqual({ BACKBONES, REMOTE_KEY: "sk-remote" });
  const server = await serve(bundle, { ...options("remote"), variables });
  try {
    const { key } = await createClient({ baseUrl: server.url, key: "operator" }).tenants.create();
    const graft = createClient({ baseUrl: server.url, key: key.secret });
    const { data } = await graft.embeddings.create({ model: "remote", input: "hello" });
    expect(data[0]?.embedding).toEqual(embeddingOf("hello"));
    expect(remote.calls.map(({ headers }) => headers.authorization)).toEqual(["Bearer sk-remote"]);
  } finally {
    await server.stop();
    await remote.close();
  }
});

test.each([
  [{ BACKBONES: JSON.stringify([entry]) }, "BACKBONES[0].secret: the secret REMOTE_KEY is not set"],
  [{ BACKBONES: "not a list" }, "BACKBONES: is not JSON"],
])("a wrong BACKBONES is told at the start: %j", (env, message) => {
  expect(() => readWorkerVariables(env)).toThrow(message);
});

test("a state folder serves one server at a time, and the next one after it", async () => {
  const first = await serve(bundle, options("state"));
  const { key } = await createClient({ baseUrl: first.url, key: "operator" }).tenants.create();
  try {
    await expect(serve(bundle, options("state"))).rejects.toThrow(UsageError);
    const second = await startServer({ PORT: "0", STATE_DIR: join(folder, "state") });
    expect(second).toEqual({
      code: 1,
      out: "",
      err: `Another server runs on the state in '${join(folder, "state")}'. Stop it, or set another STATE_DIR.\n`,
    });
    const port = new URL(first.url).port;
    const other = await startServer({ PORT: port, STATE_DIR: join(folder, "other") });
    expect(other).toEqual({ code: 1, out: "", err: `PORT ${port} of 127.0.0.1 is in use.\n` });
    expect((await createClient({ baseUrl: first.url, key: key.secret }).datasets.list()).data).toEqual([]);
  } finally {
    await first.stop();
  }
  const restartedServer = await serve(bundle, options("state"));
  expect((await createClient({ baseUrl: restartedServer.url, key: key.secret }).datasets.list()).data).toEqual([]);
  await restartedServer.stop();
});

test("SIGTERM ends the batch endpoint first, which hands back what it has, and then the Worker", async () => {
  const env = { ...process.env, PORT: "0", STATE_DIR: join(folder, "both"), ADMIN_KEY: "operator" };
  const child = execFile(process.execPath, [join(root, "src/serve.ts")], { cwd: root, env });
  let out = "";
  const waitForOutput = (text: string) =>
    new Promise<void>((resolve) => child.stdout?.on("data", () => out.includes(text) && resolve()));
  child.stdout?.on("data", (text) => (out += text));
  await Promise.all([waitForOutput("Graft listens on"), waitForOutput("Batch endpoint listens on")]);
  child.kill("SIGTERM");
  expect(await once(child, "close")).toEqual([0, null]);
  expect(out).toContain('"event":"stopping"');
});

test("a head trains again by its policy, in the Worker that its ledger calls", async () => {
  const server = await serve(bundle, options("policy"));
  try {
    const { key } = await createClient({ baseUrl: server.url, key: "operator" }).tenants.create();
    const graft = createClient({ baseUrl: server.url, key: key.secret });
    await graft.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
    const csv = readFileSync(join(root, "examples/support-tickets.csv"), "utf8");
    await graft.datasets.import("tickets", csv, "text/csv");
    await graft.heads.train({ name: "support", dataset: "tickets", method: "head" });
    await graft.heads.policy("support", { retrain_after_examples: 1, promote: "always" });
    await graft.heads.feedback("support", [{ text: "charge me once, not twice", label: "billing_refund" }]);
    const getHead = () => graft.heads.get("support");
    await expect.poll(getHead, { timeout: 60_000, interval: 200 }).toMatchObject({ version: 2, active_version: 2 });
    expect(await graft.heads.policy("support")).toMatchObject({ new_examples: 0, last_failure: null });
  } finally {
    await server.stop();
  }
});

describe("a wrong environment is told at the start", () => {
  test.each([
    [{ PORT: "abc" }, "PORT is 'abc', which is not a whole number from 0 to 65535."],
    [{ PORT: "99999" }, "PORT is '99999'"],
    [{ PORT: "-1" }, "PORT is '-1'"],
    [{ PORT: "1.5" }, "PORT is '1.5'"],
    [{ PORT: "" }, "PORT is ''"],
    [{ STATE_DIR: "" }, "STATE_DIR is empty."],
    [{ BACKBONES: "{" }, "BACKBONES: is not JSON."],
    [{ WEBHOOK_ORIGINS: "127.0.0.1:9000" }, "WEBHOOK_ORIGINS is '127.0.0.1:9000', which is not a list"],
  ])("%j", (env, message) => {
    expect(() => readServeOptions(env)).toThrow(message);
    expect(() => readServeOptions(env)).toThrow(UsageError);
  });

  test("also where STATE_DIR is no folder", async () => {
    writeFileSync(join(folder, "file"), "");
    for (const state of ["file", "file/below"]) await expect(serve(bundle, options(state))).rejects.toThrow(UsageError);
  });

  test("in one line, without a stack", async () => {
    const { code, out, err } = await startServer({ PORT: "abc" });
    expect({ code, out }).toEqual({ code: 1, out: "" });
    expect(err).toBe("PORT is 'abc', which is not a whole number from 0 to 65535.\n");
  });

  test("and a good one, or none, is taken as it is", () => {
    expect(readServeOptions({})).toMatchObject({ port: 8787, stateDir: resolve(".graft"), variables: {} });
    expect(readServeOptions({ PORT: "0", STATE_DIR: folder, ADMIN_KEY: "a" })).toEqual({
      port: 0,
      stateDir: folder,
      adminKey: "a",
      variables: {},
    });
  });
});
