/**
 * kill -9 between any two writes. The real Worker runs in a process of its own; ahead of the n-th write of a request,
 * and of the alarms that follow it, the whole process group is killed and started again on the same state. What was
 * answered must hold, what was not is absent or whole, the same request works again, and nothing refers to bytes
 * that are not there. By default each operation is killed at a sixth of its writes; CRASH_POINTS=all takes all.
 */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { type Client, createClient } from "../../src/sdk/client.ts";
import { expectConsistent } from "./consistency.ts";
import { waitFor } from "./processes.ts";

const STEP = process.env.CRASH_POINTS === "all" ? 1 : 6;
const root = join(import.meta.dirname, "..", "..");
const folder = mkdtempSync(join(tmpdir(), "graft-crash-"));
const stateDir = join(folder, "state");

interface Server {
  readonly url: string;
  /** Resolves with what the Worker was about to write when it stopped for good. */
  readonly crashed: Promise<string>;
  readonly kill: () => Promise<void>;
}

let spareProcess: ChildProcessWithoutNullStreams;
let server: Server;
const crashPoints: string[] = [];

/** A process that has loaded all it needs and waits for its turn: a restart then takes half the time. */
function launch(): ChildProcessWithoutNullStreams {
  const args = [join(import.meta.dirname, "crash-server.ts"), inject("bundles").crashing, stateDir];
  const child = spawn(process.execPath, args, { cwd: root, stdio: ["pipe", "pipe", "pipe"], detached: true });
  child.stderr.on("data", (text) => console.error(String(text)));
  return child;
}

async function start(): Promise<Server> {
  const child = spareProcess;
  spareProcess = launch();
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const lines = createInterface({ input: child.stdout });
  let listening: (url: string) => void;
  let crash: (what: string) => void;
  const ready = new Promise<string>((resolve) => {
    listening = resolve;
  });
  const crashed = new Promise<string>((resolve) => {
    crash = resolve;
  });
  lines.on("line", (line) => {
    if (line.startsWith("listening on ")) listening(line.slice("listening on ".length));
    if (line.startsWith("crash before ")) crash(line.slice("crash before ".length));
  });
  child.stdin.write("go\n");
  const kill = async () => {
    if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    await exited;
  };
  return { url: await ready, crashed, kill };
}

interface ApiResponse {
  readonly status: number;
  readonly headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: tests read answers of every shape, and fail where a field is missing
  readonly json: any;
}

async function call(
  method: string,
  path: string,
  body?: unknown,
  key = acme.key,
  headers: Record<string, string> = {},
): Promise<ApiResponse> {
  const type = typeof body === "string" ? "application/x-ndjson" : "application/json";
  const response = await fetch(`${server.url}${path}`, {
    method,
    headers: { authorization: `Bearer ${key}`, ...(body === undefined ? {} : { "content-type": type }), ...headers },
    ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  return {
    status: response.status,
    headers: response.headers,
    json: text === "" ? null : JSON.parse(text),
  };
}

/** Waits until no work is due at once, so that the writes that are counted are those of one request. */
async function waitUntilIdle(tenant = acme.id): Promise<void> {
  for (let i = 0; i < 200; i++) {
    if ((await call("GET", `/overdue?tenant=${tenant}`)).json === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error("work that is due does not get done");
}

const clientOf = ({ key }: { readonly key: string }): Client => createClient({ baseUrl: server.url, key });

async function expectStatus(status: number, answer: Promise<ApiResponse>): Promise<ApiResponse> {
  const { json, ...rest } = await answer;
  expect(rest.status, JSON.stringify(json)).toBe(status);
  return { json, ...rest };
}

const operator = "operator-key-of-the-tests";
let acme = { id: "acme", key: "" };

async function newTenant(id: string): Promise<{ id: string; key: string }> {
  const response = await expectStatus(201, call("POST", "/v1/admin/tenants", { id }, operator));
  return { id, key: response.json.key.secret };
}

const rows = (n: number, from = 0) =>
  Array.from({ length: n }, (_, i) => ({
    text: `${i % 2 ? "refund" : "login"} ${from + i}`,
    label: i % 2 ? "a" : "b",
  }));
const ndjson = (n: number) =>
  rows(n)
    .map((row) => JSON.stringify(row))
    .join("\n");

async function newDataset(name: string, count: number, key = acme.key): Promise<void> {
  await expectStatus(201, call("POST", "/v1/datasets", { name, task: "single_label", modality: "text" }, key));
  await expectStatus(200, call("POST", `/v1/datasets/${name}/examples`, { examples: rows(count) }, key));
}

function trainBody(name: string, l2 = 1) {
  return { name, dataset: "tickets", hyperparameters: { l2 }, evaluation: { method: "none" } };
}

interface Operation {
  /** Brings about what the request needs; answers the request. */
  readonly prepare: (n: number) => Promise<() => Promise<ApiResponse>>;
  readonly status: number;
  /** After a restart: whether the request's effect is there. Fails where it is there by half. */
  readonly isApplied: (n: number, answer: ApiResponse | null) => Promise<boolean>;
  /** What the same request answers next, where its effect is there and where it is not. */
  readonly retryStatuses: { readonly present: readonly number[]; readonly absent: readonly number[] };
  /** What must come about in the end, without a sweep, where the effect is there. */
  readonly finally?: (n: number) => Promise<unknown>;
}

const headHashes = new Map<number, string>();

async function listStored(tenant = acme.id): Promise<{ kv: string[]; r2: string[] }> {
  return (await call("GET", `/stored?tenant=${tenant}`)).json;
}

async function exists(path: string): Promise<boolean> {
  const answer = await call("GET", path);
  expect([200, 404]).toContain(answer.status);
  return answer.status === 200;
}

const doomedTenants = new Map<number, { id: string; key: string }>();
const keys = new Map<number, { id: string; secret: string }>();

const operations: Readonly<Record<string, Operation>> = {
  "create a tenant": {
    prepare: async (n) => () => call("POST", "/v1/admin/tenants", { id: `new-${n}` }, operator),
    status: 201,
    async isApplied(n, answer) {
      if (answer !== null) {
        const { secret } = answer.json.key;
        await expectStatus(200, call("GET", "/v1/datasets", undefined, secret));
        return true;
      }
      // Taken, it must be whole; else the same call creates it now, and its key works.
      const retry = await call("POST", "/v1/admin/tenants", { id: `new-${n}` }, operator);
      if (retry.status === 201) {
        const keys = await expectStatus(200, call("GET", "/v1/api_keys", undefined, retry.json.key.secret));
        expect(keys.json.data).toHaveLength(1);
      }
      const key = { name: "k", scopes: ["train"] };
      const added = await expectStatus(201, call("POST", `/v1/admin/tenants/new-${n}/api_keys`, key, operator));
      await expectStatus(200, call("GET", "/v1/datasets", undefined, added.json.secret));
      return true;
    },
    retryStatuses: { present: [409], absent: [] },
  },
  "create a data set": {
    prepare: async (n) => () =>
      call("POST", "/v1/datasets", { name: `made-${n}`, task: "single_label", modality: "text" }),
    status: 201,
    isApplied: (n) => exists(`/v1/datasets/made-${n}`),
    retryStatuses: { present: [409], absent: [201] },
  },
  "import examples": {
    async prepare(n) {
      await newDataset(`import-${n}`, 3);
      return () => call("POST", `/v1/datasets/import-${n}/examples`, ndjson(1500));
    },
    status: 200,
    async isApplied(n) {
      const { examples } = (await expectStatus(200, call("GET", `/v1/datasets/import-${n}`))).json;
      expect([3, 1500]).toContain(examples);
      return examples === 1500;
    },
    retryStatuses: { present: [200], absent: [200] },
  },
  "delete an example": {
    async prepare(n) {
      await newDataset(`edit-${n}`, 2);
      const examples = { examples: [{ id: "x", text: "a text", label: "a" }] };
      await expectStatus(200, call("POST", `/v1/datasets/edit-${n}/examples`, examples));
      return () => call("DELETE", `/v1/datasets/edit-${n}/examples/x`);
    },
    status: 200,
    async isApplied(n) {
      const { examples } = (await expectStatus(200, call("GET", `/v1/datasets/edit-${n}`))).json;
      expect([2, 3]).toContain(examples);
      return examples === 2;
    },
    retryStatuses: { present: [404], absent: [200] },
  },
  "train a head": {
    async prepare(n) {
      // One more example, so that a block is written anew and the one that it replaces is deleted.
      await expectStatus(200, call("POST", "/v1/datasets/tickets/examples", { examples: rows(1, 10_000 + n) }));
      return () => call("POST", "/v1/heads", trainBody(`trained-${n}`));
    },
    status: 201,
    isApplied: (n) => exists(`/v1/heads/trained-${n}`),
    retryStatuses: { present: [201], absent: [201] },
  },
  "train a head with an Idempotency-Key": {
    prepare: async (n) => () =>
      call("POST", "/v1/heads", trainBody(`once-${n}`), acme.key, { "idempotency-key": `once-${n}` }),
    status: 201,
    async isApplied(n) {
      const present = await exists(`/v1/heads/once-${n}`);
      const retried = await call("POST", "/v1/heads", trainBody(`once-${n}`), acme.key, {
        "idempotency-key": `once-${n}`,
      });
      if (present) {
        expect([retried.status, retried.json.version]).toEqual([201, 1]);
        expect(retried.headers.get("idempotent-replayed")).toBe("true");
      } else if (retried.status === 201) return true;
      return present;
    },
    retryStatuses: { present: [201], absent: [409] },
  },
  "promote a version": {
    async prepare(n) {
      for (const l2 of [1, 2]) await expectStatus(201, call("POST", "/v1/heads", trainBody(`promoted-${n}`, l2)));
      return () => call("POST", `/v1/heads/promoted-${n}/promote`, { version: 1 });
    },
    status: 200,
    async isApplied(n) {
      const { active_version } = (await expectStatus(200, call("GET", `/v1/heads/promoted-${n}`))).json;
      expect([1, 2]).toContain(active_version);
      return active_version === 1;
    },
    retryStatuses: { present: [200], absent: [200] },
  },
  "revoke a key": {
    async prepare(n) {
      const response = await expectStatus(
        201,
        call("POST", "/v1/api_keys", { name: `revoked-${n}`, scopes: ["predict"] }),
      );
      keys.set(n, response.json);
      return () => call("DELETE", `/v1/api_keys/${response.json.id}`);
    },
    status: 200,
    async isApplied(n) {
      const response = await call("GET", "/v1/heads", undefined, keys.get(n)?.secret);
      expect([200, 401]).toContain(response.status);
      return response.status === 401;
    },
    retryStatuses: { present: [404], absent: [200] },
  },
  "delete a head": {
    async prepare(n) {
      const response = await expectStatus(201, call("POST", "/v1/heads", trainBody(`gone-${n}`, 10 + n)));
      headHashes.set(n, response.json.sha256);
      return () => call("DELETE", `/v1/heads/gone-${n}`);
    },
    status: 200,
    isApplied: async (n) => !(await exists(`/v1/heads/gone-${n}`)),
    retryStatuses: { present: [404], absent: [200] },
    finally: (n) =>
      waitFor(async () => {
        const { kv, r2 } = await listStored();
        return ![...kv, ...r2].some((key) => key.endsWith(headHashes.get(n) ?? ""));
      }, "its bytes are deleted"),
  },
  "delete a data set": {
    async prepare(n) {
      await newDataset(`gone-${n}`, 10);
      const before = new Set((await listStored()).kv);
      await expectStatus(201, call("POST", "/v1/heads", { ...trainBody("of-gone"), dataset: `gone-${n}` }));
      const block = (await listStored()).kv.find((key) => key.includes("/blocks/") && !before.has(key));
      expect(block).toBeDefined();
      headHashes.set(n, block ?? "");
      return () => call("DELETE", `/v1/datasets/gone-${n}`);
    },
    status: 200,
    isApplied: async (n) => !(await exists(`/v1/datasets/gone-${n}`)),
    retryStatuses: { present: [404], absent: [200] },
    finally: (n) =>
      waitFor(async () => !(await listStored()).kv.includes(headHashes.get(n) ?? ""), "its embeddings are deleted"),
  },
  "delete a tenant": {
    async prepare(n) {
      const victim = await newTenant(`victim-${n}`);
      doomedTenants.set(n, victim);
      await newDataset("tickets", 6, victim.key);
      await expectStatus(201, call("POST", "/v1/heads", trainBody("head"), victim.key));
      await waitUntilIdle(victim.id);
      return () => call("DELETE", `/v1/admin/tenants/${victim.id}`, undefined, operator);
    },
    status: 202,
    async isApplied(n) {
      const { status } = (await expectStatus(200, call("GET", `/v1/admin/tenants/victim-${n}`, undefined, operator)))
        .json;
      const victim = doomedTenants.get(n);
      if (status === "active" && victim) await expectConsistent(clientOf(victim));
      return status !== "active";
    },
    retryStatuses: { present: [202], absent: [202] },
    async finally(n) {
      const state = () => call("GET", `/v1/admin/tenants/victim-${n}`, undefined, operator);
      await waitFor(async () => (await state()).json.status === "deleted", "the tenant is deleted");
      expect(await listStored(`victim-${n}`)).toEqual({ kv: [], r2: [] });
      await expectStatus(401, call("GET", "/v1/datasets", undefined, doomedTenants.get(n)?.key));
      await expectStatus(409, call("POST", "/v1/admin/tenants", { id: `victim-${n}` }, operator));
    },
  },
};

/** Runs the request with a crash ahead of its n-th write; its answer, if any came, and what was about to be written. */
async function runUntilCrash(
  run: () => Promise<ApiResponse>,
  n: number,
): Promise<{ answer: ApiResponse | null; crashPoint: string | null }> {
  await call("POST", `/crash?before=${n}`);
  const { crashed } = server;
  const responsePromise = run().catch(() => null);
  const answer = await Promise.race([responsePromise, crashed.then(() => null)]);
  const idleTimer =
    answer && waitUntilIdle().then(() => new Promise<null>((resolve) => setTimeout(resolve, 250, null)));
  const crashPoint = await Promise.race([crashed, ...(idleTimer ? [idleTimer.catch(() => crashed)] : [])]);
  return { answer, crashPoint };
}

beforeAll(async () => {
  spareProcess = launch();
  server = await start();
  acme = await newTenant("acme");
  await newDataset("tickets", 20);
});

afterAll(async () => {
  await server?.kill();
  if (spareProcess?.pid !== undefined) process.kill(-spareProcess.pid, "SIGKILL");
  rmSync(folder, { recursive: true, force: true });
  if (STEP === 1) console.log(crashPoints.join("\n"));
});

describe("killed between any two writes, the next start finds everything whole:", () => {
  test.each(Object.entries(operations))("%s", async (name, operation) => {
    // No operation has fewer than three: its transaction, the alarm and the answer.
    const first = 1 + (Object.keys(operations).indexOf(name) % Math.min(STEP, 3));
    let crashCount = 0;
    for (let n = first; n < 40; n += STEP) {
      const run = await operation.prepare(n);
      await waitUntilIdle();
      const { answer, crashPoint } = await runUntilCrash(run, n);
      if (answer !== null) expect(answer.status, JSON.stringify(answer.json)).toBe(operation.status);
      if (crashPoint !== null) {
        crashCount++;
        crashPoints.push(`${name}: write ${n}, before ${crashPoint}, ${answer === null ? "not answered" : "answered"}`);
        await server.kill();
        server = await start();
      }
      await call("POST", "/crash?before=0");
      const present = await operation.isApplied(n, answer);
      if (answer !== null) expect(present, `what was answered holds after ${crashPoint}`).toBe(true);
      await expectConsistent(clientOf(acme));
      const retry = await run();
      expect(operation.retryStatuses[present ? "present" : "absent"], JSON.stringify(retry.json)).toContain(
        retry.status,
      );
      await operation.finally?.(n);
      await expectConsistent(clientOf(acme));
      if (crashPoint === null) break;
    }
    expect(crashCount, "at least one write was cut off").toBeGreaterThan(0);
  });

  test("and what no version and no data set refers to is swept away", async () => {
    // Killed between the bytes and the ledger, and not tried again: one head's bytes, then one block of embeddings.
    for (const [l2, examples] of [
      [77, []],
      [1, rows(1, 50_000)],
    ] as const) {
      await expectStatus(200, call("POST", "/v1/datasets/tickets/examples", { examples }));
      await waitUntilIdle();
      const before = await listStored();
      const train = () => call("POST", "/v1/heads", trainBody("orphan", l2));
      expect(await runUntilCrash(train, 2)).toEqual({ answer: null, crashPoint: "transaction" });
      await server.kill();
      server = await start();
      const after = await listStored();
      expect(after.r2.length + after.kv.length).toBe(before.r2.length + before.kv.length + 1);
    }
    await waitUntilIdle();
    const hashes = await expectConsistent(clientOf(acme));
    const blocks = (await call("POST", "/sweep?tenant=acme")).json as string[];
    const { kv, r2 } = await listStored();
    expect(r2.map((key) => key.split("/").at(-1)).sort()).toEqual([...hashes].sort());
    expect(kv.filter((key) => key.includes("/heads/")).every((key) => r2.includes(key))).toBe(true);
    expect(kv.filter((key) => key.includes("/blocks/")).every((key) => blocks.includes(key))).toBe(true);
    await expectConsistent(clientOf(acme));
  });
});
