/** A state folder that an earlier build wrote: this build answers the same from it, and finishes what that build began. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { type Client, createClient } from "../../src/sdk/client.ts";
import { type Server, serve } from "../../src/server/runtime.ts";
import { type EmbeddingServer, startEmbeddingServer } from "../process/embedding-server.ts";
import { freePort, waitFor, waitForJobEnd } from "./processes.ts";
import { isSigned, type Receiver, startReceiver } from "./receivers.ts";
import { ADMIN_KEY, type ExpectedState, remoteBackbones, workerVariables } from "./upgrade/state.ts";

const folder = mkdtempSync(join(tmpdir(), "graft-upgrade-"));
const stateDir = join(folder, "state");
let expected: ExpectedState;
let receiver: Receiver;
let embeddingServer: EmbeddingServer;
let server: Server;
let batch: ChildProcess;
let graft: Client;

function openLedger(): DatabaseSync {
  const ledgers = join(stateDir, "do", "-Tenant");
  const name = readdirSync(ledgers).find((file) => /^[0-9a-f]+\.sqlite$/.test(file)) ?? "";
  return new DatabaseSync(join(ledgers, name));
}

/** Moves the webhooks to the receiver of this run, and rows that expire by the age of the archive. Nothing else changes. */
function updateLedger(): void {
  const db = openLedger();
  const age = Math.floor(Date.now() / 1000) - expected.takenAt;
  db.prepare("UPDATE events SET created_at = created_at + ?").run(age);
  db.prepare("UPDATE idempotency SET started_at = started_at + ?").run(age);
  db.prepare("UPDATE inbound_messages SET expires_at = expires_at + ?").run(age);
  db.prepare("UPDATE webhook_endpoints SET url = ?").run(receiver.url);
  db.close();
}

beforeAll(async () => {
  execFileSync("tar", ["-xzf", join(import.meta.dirname, "upgrade", "state.tar.gz"), "-C", folder]);
  expected = JSON.parse(readFileSync(join(folder, "expected.json"), "utf8"));
  receiver = await startReceiver();
  embeddingServer = await startEmbeddingServer();
  updateLedger();
  const [port, batchPort] = [await freePort(), await freePort()];
  // It comes first: the job, which waited for one, is submitted as soon as the Worker starts.
  batch = spawn(process.execPath, [join(import.meta.dirname, "..", "..", "src", "batch.ts")], {
    env: {
      ...process.env,
      BATCH_PORT: String(batchPort),
      BATCH_SECRET: workerVariables.BATCH_SECRET,
      GRAFT_URL: `http://127.0.0.1:${port}`,
      WORK_DIR: join(folder, "work"),
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(batch.stdout as NodeJS.ReadableStream, "data");
  server = await serve(inject("bundles").deployed, {
    port,
    stateDir,
    adminKey: ADMIN_KEY,
    log: () => undefined,
    variables: {
      ...workerVariables,
      BATCH_URL: `http://127.0.0.1:${batchPort}`,
      WEBHOOK_ORIGINS: receiver.url,
      BACKBONES: remoteBackbones(embeddingServer.url),
    },
  });
  graft = createClient({ baseUrl: server.url, key: expected.key });
});
afterAll(async () => {
  batch?.kill();
  if (batch?.exitCode === null) await once(batch, "exit");
  await server?.stop();
  await Promise.all([receiver?.close(), embeddingServer?.close()]);
  rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
});

test("what was stored is answered as before", async () => {
  const { input, answer } = expected.prediction;
  // A head without a threshold does not know what is in scope. Older builds answered true.
  expect((await graft.heads.predict("support", { input })).data[0]).toEqual({ ...answer, in_scope: null });
  expect(await graft.heads.get("support")).toEqual(expected.head);
  expect(await graft.heads.policy("support")).toEqual({ ...expected.policy, test_dataset: null });
  expect(await graft.datasets.get("tickets")).toEqual({ ...expected.dataset, embedded: {} });
  expect(await graft.files.get(expected.file.id)).toEqual(expected.file);
});

test("a repeated request and a repeated message are answered as the first one was", async () => {
  const post = async (path: string, body: object, headers: Record<string, string>) => {
    const response = await fetch(server.url + path, {
      method: "POST",
      body: JSON.stringify(body),
      headers: { "content-type": "application/json", ...headers },
    });
    return { replayed: response.headers.get("idempotent-replayed"), body: await response.json() };
  };
  const { idempotent, hook } = expected;
  const headers = { authorization: `Bearer ${expected.key}`, "idempotency-key": idempotent.key };
  expect(await post("/v1/datasets", idempotent.body, headers)).toEqual({ replayed: "true", body: idempotent.answer });
  expect((await post(hook.path, hook.message, {})).body).toEqual(hook.answer);
  expect((await graft.datasets.get("tickets")).examples).toBe(expected.dataset.examples);
});

test("the webhooks that had failed arrive, signed with the endpoint's secret", async () => {
  const arrivedIds = () => new Set(receiver.arrivals.map(({ event }) => event.id));
  await waitFor(async () => expected.events.every((id) => arrivedIds().has(id)), "every event arrives", 90_000);
  expect(receiver.arrivals.every((arrival) => isSigned(arrival, expected.secret))).toBe(true);
  const { data } = await graft.webhookEndpoints.list();
  expect(data).toMatchObject([{ enabled: true, failing_since: null }]);
});

test("the endpoint's secret, which that build stored as text, is encrypted", async () => {
  const db = openLedger();
  // Earlier pages, with the text, are in the write-ahead log until SQLite writes over them.
  const rows = db.prepare("SELECT typeof(secret) AS type FROM webhook_endpoints").all();
  expect(rows.map(({ type }) => type)).toEqual(["blob"]);
  db.close();
});

test("the job that waited for a batch endpoint succeeds", async () => {
  const job = await waitForJobEnd({ id: "acme", key: expected.key, graft }, expected.job, 100_000);
  expect(job).toMatchObject({ status: "succeeded", graft: { head: "tuned", version: 1 } });
});

test("the retraining that was cut off is done again", async () => {
  await waitFor(async () => (await graft.heads.get("remote")).version === 2, "the head has its next version");
  expect(await graft.heads.policy("remote")).toMatchObject({ new_examples: 0, last_failure: null });
});
