import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, expect, inject, test } from "vitest";
import { UsageError } from "../../src/lib/usage-error.ts";
import { createClient } from "../../src/sdk/client.ts";
import { serve } from "../../src/server/runtime.ts";
import { readWorkerVariables } from "../../src/server/settings.ts";
import { embeddingOf, startEmbeddingServer } from "../process/embedding-server.ts";
import { expectConsistent } from "./consistency.ts";
import { createDataset, freePort, waitFor } from "./processes.ts";

const root = resolve(import.meta.dirname, "../..");
const folder = mkdtempSync(join(tmpdir(), "graft-serve-test-"));
const bundle = inject("bundles").deployed;
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const options = (state: string) => ({
  port: 0,
  stateDir: join(folder, state),
  adminKey: "operator-key-of-the-tests",
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
    const { key } = await createClient({ baseUrl: server.url, key: "operator-key-of-the-tests" }).tenants.create();
    const graft = createClient({ baseUrl: server.url, key: key.secret });
    const { data } = await graft.embeddings.create({ model: "remote", input: "hello" });
    expect(data[0]?.embedding).toEqual(embeddingOf("hello"));
    expect(remote.calls.map(({ headers }) => headers.authorization)).toEqual(["Bearer sk-remote"]);
  } finally {
    await server.stop();
    await remote.close();
  }
});

test("a webhook whose name leads to this machine is not sent, and its delivery says why", async () => {
  let connections = 0;
  const receiver = createServer(() => connections++).listen(0, "127.0.0.1");
  await once(receiver, "listening");
  const names: string[] = [];
  const resolveName = async (name: string) => {
    names.push(name);
    return ["127.0.0.1"];
  };
  const server = await serve(bundle, { ...options("names"), resolve: resolveName });
  try {
    const { key } = await createClient({ baseUrl: server.url, key: "operator-key-of-the-tests" }).tenants.create();
    const graft = createClient({ baseUrl: server.url, key: key.secret });
    const { id } = await graft.webhookEndpoints.create({
      url: "https://hooks.example.com/a",
      events: ["webhook.test"],
    });
    const delivery = await graft.webhookEndpoints.test(id);
    const attempts = await waitFor(async () => {
      const { attempts } = await graft.webhookDeliveries.get(delivery.id);
      return attempts[0]?.error && attempts;
    }, "an attempt");
    expect(attempts).toMatchObject([
      { status: null, error: "It was not sent: its host resolves to an address that is not public." },
    ]);
    expect({ names, connections }).toEqual({ names: ["hooks.example.com"], connections: 0 });
  } finally {
    await server.stop();
    receiver.close();
  }
});

test("a state folder serves one server at a time, and the next one after it", async () => {
  const first = await serve(bundle, options("state"));
  const { key } = await createClient({ baseUrl: first.url, key: "operator-key-of-the-tests" }).tenants.create();
  try {
    await expect(serve(bundle, options("state"))).rejects.toThrow(UsageError);
    const second = await startServer({ PORT: "0", STATE_DIR: join(folder, "state"), BUNDLE_DIR: bundle });
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
  const env = { ...process.env, PORT: "0", STATE_DIR: join(folder, "both"), ADMIN_KEY: "operator-key-of-the-tests" };
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
    const { key } = await createClient({ baseUrl: server.url, key: "operator-key-of-the-tests" }).tenants.create();
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

test("a PORT that is none is told in one line, without a stack", async () => {
  const { code, out, err } = await startServer({ PORT: "abc" });
  expect({ code, out }).toEqual({ code: 1, out: "" });
  expect(err).toBe("PORT is 'abc', which is not a whole number from 0 to 65535.\n");
});

test("a STATE_DIR that is no folder is told at the start", async () => {
  writeFileSync(join(folder, "file"), "");
  for (const state of ["file", "file/below"]) await expect(serve(bundle, options(state))).rejects.toThrow(UsageError);
});

test("comes back on its port with its state after its process alone was killed", async () => {
  const port = await freePort();
  const env = {
    ...process.env,
    PORT: String(port),
    STATE_DIR: join(folder, "killed"),
    ADMIN_KEY: "operator-key-of-the-tests",
    BUNDLE_DIR: bundle,
  };
  const url = `http://127.0.0.1:${port}`;
  const operator = createClient({ baseUrl: url, key: "operator-key-of-the-tests" });
  const isReady = () => operator.ready().catch(() => false);
  const start = async () => {
    const child = spawn(process.execPath, [join(root, "src", "serve.ts")], { cwd: root, env, stdio: "ignore" });
    await waitFor(isReady, "the server is ready", 60_000);
    return child;
  };
  let child = await start();
  try {
    const { key } = await operator.tenants.create({ id: "acme" });
    const graft = createClient({ baseUrl: url, key: key.secret });
    await createDataset(graft, "tickets", 10);
    const head = { name: "support", dataset: "tickets", method: "head", evaluation: { method: "none" } } as const;
    await graft.heads.train(head);
    child.kill("SIGKILL");
    await waitFor(async () => !(await isReady()), "workerd ends with the process that started it");
    child = await start();
    await expectConsistent(graft);
    await graft.heads.train(head);
    expect((await graft.heads.get("support")).version).toBe(2);
  } finally {
    child.kill("SIGKILL");
  }
});
