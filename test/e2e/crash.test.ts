/**
 * kill -9 between any two writes. The real Worker runs in a process of its own; ahead of the n-th write of a request,
 * and of the alarms that follow it, the whole process group is killed and started again on the same state. What was
 * answered must hold, what was not is absent or whole, the same request works again, and nothing refers to bytes
 * that are not there. By default each operation is killed at a sixth of its writes; CRASH_POINTS=all takes all.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { build } from "../../src/serve.ts";

const STEP = process.env.CRASH_POINTS === "all" ? 1 : 6;
const root = join(import.meta.dirname, "..", "..");
const folder = mkdtempSync(join(tmpdir(), "graft-crash-"));
const [built, stateDir] = [join(folder, "built"), join(folder, "state")];

interface Server {
  readonly url: string;
  /** Resolves with what the Worker was about to write when it stopped for good. */
  readonly crashed: Promise<string>;
  readonly kill: () => Promise<void>;
}

let spare: ChildProcess;
let server: Server;
const points: string[] = [];

/** A process that has loaded all it needs and waits for its turn: a restart then takes half the time. */
function launch(): ChildProcess {
  const args = [join(import.meta.dirname, "crash-server.ts"), built, stateDir];
  return spawn(process.execPath, args, { cwd: root, stdio: ["pipe", "pipe", "inherit"], detached: true });
}

async function start(): Promise<Server> {
  const child = spare;
  spare = launch();
  const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream });
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
  child.stdin?.write("go\n");
  const kill = async () => {
    if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    await gone;
  };
  return { url: await ready, crashed, kill };
}

interface Answer {
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
): Promise<Answer> {
  const type = typeof body === "string" ? "application/x-ndjson" : "application/json";
  const response = await fetch(`${server.url}${path}`, {
    method,
    headers: { authorization: `Bearer ${key}`, ...(body === undefined ? {} : { "content-type": type }), ...headers },
    ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, json: path.endsWith("/export") ? text : safe(text) };
}

function safe(text: string): unknown {
  return text === "" ? null : JSON.parse(text);
}

/** Waits until no work is due at once, so that the writes that are counted are those of one request. */
async function settle(tenant = acme.id): Promise<void> {
  for (let i = 0; i < 200; i++) {
    if ((await call("GET", `/overdue?tenant=${tenant}`)).json === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error("work that is due does not get done");
}

async function must(status: number, answer: Promise<Answer>): Promise<Answer> {
  const { json, ...rest } = await answer;
  expect(rest.status, JSON.stringify(json)).toBe(status);
  return { json, ...rest };
}

const operator = "operator";
let acme = { id: "acme", key: "" };

async function newTenant(id: string): Promise<{ id: string; key: string }> {
  const made = await must(201, call("POST", "/v1/admin/tenants", { id }, operator));
  return { id, key: made.json.key.secret };
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
  await must(201, call("POST", "/v1/datasets", { name, task: "single_label", modality: "text" }, key));
  await must(200, call("POST", `/v1/datasets/${name}/examples`, { examples: rows(count) }, key));
}

function trainBody(name: string, l2 = 1) {
  return { name, dataset: "tickets", hyperparameters: { l2 }, evaluation: { method: "none" } };
}

/** Everything that a tenant can see is whole: counts agree, versions have no gaps, every version's bytes are there. */
async function expectWhole(key = acme.key): Promise<Set<string>> {
  const hashes = new Set<string>();
  for (const dataset of (await must(200, call("GET", "/v1/datasets?limit=100", undefined, key))).json.data) {
    const exported = (await must(200, call("GET", `/v1/datasets/${dataset.name}/export`, undefined, key))).json;
    const lines = String(exported).split("\n").filter(Boolean);
    expect(lines).toHaveLength(dataset.examples);
    expect(Object.values(dataset.labels as Record<string, number>).reduce((a, b) => a + b, 0)).toBe(dataset.examples);
    for (const line of lines) expect(Object.keys(JSON.parse(line)).sort()).toEqual(["id", "label", "text"]);
  }
  for (const head of (await must(200, call("GET", "/v1/heads?limit=100", undefined, key))).json.data) {
    const versions = (await must(200, call("GET", `/v1/heads/${head.id}/versions`, undefined, key))).json.data;
    const numbers = versions.map(({ version }: { version: number }) => version);
    expect(numbers).toEqual(Array.from(numbers, (_, i) => numbers.length - i));
    expect(numbers).toContain(head.active_version);
    for (const { version, sha256 } of versions) {
      const body = { input: "refund", version };
      const predicted = await must(200, call("POST", `/v1/heads/${head.id}/predict`, body, key));
      expect(predicted.json.model).toBe(`${head.id}@${version}`);
      hashes.add(sha256);
    }
  }
  return hashes;
}

interface Operation {
  /** Brings about what the request needs; answers the request. */
  readonly prepare: (n: number) => Promise<() => Promise<Answer>>;
  readonly status: number;
  /** After a restart: whether the request's effect is there. Fails where it is there by half. */
  readonly present: (n: number, answer: Answer | null) => Promise<boolean>;
  /** What the same request answers next, where its effect is there and where it is not. */
  readonly again: { readonly present: readonly number[]; readonly absent: readonly number[] };
  /** What must come about in the end, without a sweep, where the effect is there. */
  readonly finally?: (n: number) => Promise<void>;
}

const shas = new Map<number, string>();

/** Waits until what is true in the end is true. */
async function eventually(holds: () => Promise<boolean>, what: string, milliseconds = 10_000): Promise<void> {
  for (let waited = 0; waited < milliseconds; waited += 50) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`never came about: ${what}`);
}

async function stored(tenant = acme.id): Promise<{ kv: string[]; r2: string[] }> {
  return (await call("GET", `/stored?tenant=${tenant}`)).json;
}

async function exists(path: string): Promise<boolean> {
  const answer = await call("GET", path);
  expect([200, 404]).toContain(answer.status);
  return answer.status === 200;
}

const victims = new Map<number, { id: string; key: string }>();
const keys = new Map<number, { id: string; secret: string }>();

const operations: Readonly<Record<string, Operation>> = {
  "create a tenant": {
    prepare: async (n) => () => call("POST", "/v1/admin/tenants", { id: `new-${n}` }, operator),
    status: 201,
    async present(n, answer) {
      if (answer !== null) {
        const { secret } = answer.json.key;
        await must(200, call("GET", "/v1/datasets", undefined, secret));
        return true;
      }
      // Taken, it must be whole; else the same call creates it now, and its key works.
      const next = await call("POST", "/v1/admin/tenants", { id: `new-${n}` }, operator);
      if (next.status === 201) {
        const keys = await must(200, call("GET", "/v1/api_keys", undefined, next.json.key.secret));
        expect(keys.json.data).toHaveLength(1);
      }
      const key = { name: "k", scopes: ["train"] };
      const added = await must(201, call("POST", `/v1/admin/tenants/new-${n}/api_keys`, key, operator));
      await must(200, call("GET", "/v1/datasets", undefined, added.json.secret));
      return true;
    },
    again: { present: [409], absent: [] },
  },
  "create a data set": {
    prepare: async (n) => () =>
      call("POST", "/v1/datasets", { name: `made-${n}`, task: "single_label", modality: "text" }),
    status: 201,
    present: (n) => exists(`/v1/datasets/made-${n}`),
    again: { present: [409], absent: [201] },
  },
  "import examples": {
    async prepare(n) {
      await newDataset(`import-${n}`, 3);
      return () => call("POST", `/v1/datasets/import-${n}/examples`, ndjson(1500));
    },
    status: 200,
    async present(n) {
      const { examples } = (await must(200, call("GET", `/v1/datasets/import-${n}`))).json;
      expect([3, 1500]).toContain(examples);
      return examples === 1500;
    },
    again: { present: [200], absent: [200] },
  },
  "delete an example": {
    async prepare(n) {
      await newDataset(`edit-${n}`, 2);
      const examples = { examples: [{ id: "x", text: "a text", label: "a" }] };
      await must(200, call("POST", `/v1/datasets/edit-${n}/examples`, examples));
      return () => call("DELETE", `/v1/datasets/edit-${n}/examples/x`);
    },
    status: 200,
    async present(n) {
      const { examples } = (await must(200, call("GET", `/v1/datasets/edit-${n}`))).json;
      expect([2, 3]).toContain(examples);
      return examples === 2;
    },
    again: { present: [404], absent: [200] },
  },
  "train a head": {
    async prepare(n) {
      // One more example, so that a block is written anew and the one that it replaces is deleted.
      await must(200, call("POST", "/v1/datasets/tickets/examples", { examples: rows(1, 10_000 + n) }));
      return () => call("POST", "/v1/heads", trainBody(`trained-${n}`));
    },
    status: 201,
    present: (n) => exists(`/v1/heads/trained-${n}`),
    again: { present: [201], absent: [201] },
  },
  "train a head with an Idempotency-Key": {
    prepare: async (n) => () =>
      call("POST", "/v1/heads", trainBody(`once-${n}`), acme.key, { "idempotency-key": `once-${n}` }),
    status: 201,
    async present(n) {
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
    again: { present: [201], absent: [409] },
  },
  "promote a version": {
    async prepare(n) {
      for (const l2 of [1, 2]) await must(201, call("POST", "/v1/heads", trainBody(`promoted-${n}`, l2)));
      return () => call("POST", `/v1/heads/promoted-${n}/promote`, { version: 1 });
    },
    status: 200,
    async present(n) {
      const { active_version } = (await must(200, call("GET", `/v1/heads/promoted-${n}`))).json;
      expect([1, 2]).toContain(active_version);
      return active_version === 1;
    },
    again: { present: [200], absent: [200] },
  },
  "revoke a key": {
    async prepare(n) {
      const made = await must(201, call("POST", "/v1/api_keys", { name: `revoked-${n}`, scopes: ["predict"] }));
      keys.set(n, made.json);
      return () => call("DELETE", `/v1/api_keys/${made.json.id}`);
    },
    status: 200,
    async present(n) {
      const used = await call("GET", "/v1/heads", undefined, keys.get(n)?.secret);
      expect([200, 401]).toContain(used.status);
      return used.status === 401;
    },
    again: { present: [404], absent: [200] },
  },
  "delete a head": {
    async prepare(n) {
      const made = await must(201, call("POST", "/v1/heads", trainBody(`gone-${n}`, 10 + n)));
      shas.set(n, made.json.sha256);
      return () => call("DELETE", `/v1/heads/gone-${n}`);
    },
    status: 200,
    present: async (n) => !(await exists(`/v1/heads/gone-${n}`)),
    again: { present: [404], absent: [200] },
    finally: (n) =>
      eventually(async () => {
        const { kv, r2 } = await stored();
        return ![...kv, ...r2].some((key) => key.endsWith(shas.get(n) ?? ""));
      }, "its bytes are deleted"),
  },
  "delete a data set": {
    async prepare(n) {
      await newDataset(`gone-${n}`, 10);
      const before = new Set((await stored()).kv);
      await must(201, call("POST", "/v1/heads", { ...trainBody("of-gone"), dataset: `gone-${n}` }));
      const block = (await stored()).kv.find((key) => key.includes("/blocks/") && !before.has(key));
      expect(block).toBeDefined();
      shas.set(n, block ?? "");
      return () => call("DELETE", `/v1/datasets/gone-${n}`);
    },
    status: 200,
    present: async (n) => !(await exists(`/v1/datasets/gone-${n}`)),
    again: { present: [404], absent: [200] },
    finally: (n) =>
      eventually(async () => !(await stored()).kv.includes(shas.get(n) ?? ""), "its embeddings are deleted"),
  },
  "delete a tenant": {
    async prepare(n) {
      const victim = await newTenant(`victim-${n}`);
      victims.set(n, victim);
      await newDataset("tickets", 6, victim.key);
      await must(201, call("POST", "/v1/heads", trainBody("head"), victim.key));
      await settle(victim.id);
      return () => call("DELETE", `/v1/admin/tenants/${victim.id}`, undefined, operator);
    },
    status: 202,
    async present(n) {
      const { status } = (await must(200, call("GET", `/v1/admin/tenants/victim-${n}`, undefined, operator))).json;
      if (status === "active") await expectWhole(victims.get(n)?.key);
      return status !== "active";
    },
    again: { present: [202], absent: [202] },
    async finally(n) {
      const state = () => call("GET", `/v1/admin/tenants/victim-${n}`, undefined, operator);
      await eventually(async () => (await state()).json.status === "deleted", "the tenant is deleted");
      expect(await stored(`victim-${n}`)).toEqual({ kv: [], r2: [] });
      await must(401, call("GET", "/v1/datasets", undefined, victims.get(n)?.key));
      await must(409, call("POST", "/v1/admin/tenants", { id: `victim-${n}` }, operator));
    },
  },
};

/** Runs the request with a crash ahead of its n-th write; its answer, if any came, and what was about to be written. */
async function runUntilCrash(
  run: () => Promise<Answer>,
  n: number,
): Promise<{ answer: Answer | null; at: string | null }> {
  await call("POST", `/crash?before=${n}`);
  const { crashed } = server;
  const answering = run().catch(() => null);
  const answer = await Promise.race([answering, crashed.then(() => null)]);
  const quiet = answer && settle().then(() => new Promise<null>((resolve) => setTimeout(resolve, 250, null)));
  const at = await Promise.race([crashed, ...(quiet ? [quiet.catch(() => crashed)] : [])]);
  return { answer, at };
}

beforeAll(async () => {
  await build(built, join(root, "test", "worker", "crashing-worker.ts"));
  spare = launch();
  server = await start();
  acme = await newTenant("acme");
  await newDataset("tickets", 20);
});

afterAll(async () => {
  await server?.kill();
  if (spare?.pid !== undefined) process.kill(-spare.pid, "SIGKILL");
  rmSync(folder, { recursive: true, force: true });
  if (STEP === 1) console.log(points.join("\n"));
});

describe("killed between any two writes, the next start finds everything whole:", () => {
  test.each(Object.entries(operations))("%s", async (name, operation) => {
    // No operation has fewer than three: its transaction, the alarm and the answer.
    const first = 1 + (Object.keys(operations).indexOf(name) % Math.min(STEP, 3));
    let crashes = 0;
    for (let n = first; n < 40; n += STEP) {
      const run = await operation.prepare(n);
      await settle();
      const { answer, at } = await runUntilCrash(run, n);
      if (answer !== null) expect(answer.status, JSON.stringify(answer.json)).toBe(operation.status);
      if (at !== null) {
        crashes++;
        points.push(`${name}: write ${n}, before ${at}, ${answer === null ? "not answered" : "answered"}`);
        await server.kill();
        server = await start();
      }
      await call("POST", "/crash?before=0");
      const present = await operation.present(n, answer);
      if (answer !== null) expect(present, `what was answered holds after ${at}`).toBe(true);
      await expectWhole();
      const next = await run();
      expect(operation.again[present ? "present" : "absent"], JSON.stringify(next.json)).toContain(next.status);
      await operation.finally?.(n);
      await expectWhole();
      if (at === null) break;
    }
    expect(crashes, "at least one write was cut off").toBeGreaterThan(0);
  });

  test("and what no version and no data set refers to is swept away", async () => {
    // Killed between the bytes and the ledger, and not tried again: one head's bytes, then one block of embeddings.
    for (const [l2, examples] of [
      [77, []],
      [1, rows(1, 50_000)],
    ] as const) {
      await must(200, call("POST", "/v1/datasets/tickets/examples", { examples }));
      await settle();
      const before = await stored();
      const train = () => call("POST", "/v1/heads", trainBody("orphan", l2));
      expect(await runUntilCrash(train, 2)).toEqual({ answer: null, at: "transaction" });
      await server.kill();
      server = await start();
      const after = await stored();
      expect(after.r2.length + after.kv.length).toBe(before.r2.length + before.kv.length + 1);
    }
    await settle();
    const hashes = await expectWhole();
    const blocks = (await call("POST", "/sweep?tenant=acme")).json as string[];
    const { kv, r2 } = await stored();
    expect(r2.map((key) => key.split("/").at(-1)).sort()).toEqual([...hashes].sort());
    expect(kv.filter((key) => key.includes("/heads/")).every((key) => r2.includes(key))).toBe(true);
    expect(kv.filter((key) => key.includes("/blocks/")).every((key) => blocks.includes(key))).toBe(true);
    await expectWhole();
  });
});

describe("npm start", () => {
  async function freePort(): Promise<number> {
    const probe = createServer().listen(0, "127.0.0.1");
    await once(probe, "listening");
    const { port } = probe.address() as AddressInfo;
    probe.close();
    await once(probe, "close");
    return port;
  }

  test("comes back on its port with its state after its process alone was killed", async () => {
    const port = await freePort();
    const env = { ...process.env, PORT: String(port), STATE_DIR: join(folder, "plain"), ADMIN_KEY: operator };
    const url = `http://127.0.0.1:${port}`;
    const ready = () =>
      fetch(`${url}/health/ready`).then(
        ({ ok }) => ok,
        () => false,
      );
    const begin = async () => {
      const child = spawn(process.execPath, [join(root, "src", "serve.ts")], { cwd: root, env, stdio: "ignore" });
      await eventually(async () => ready(), "the server is ready", 60_000);
      return child;
    };
    const killed = server;
    server = { ...server, url };
    let child = await begin();
    try {
      const tenant = await newTenant("plain");
      await newDataset("tickets", 10, tenant.key);
      await must(201, call("POST", "/v1/heads", trainBody("support"), tenant.key));
      child.kill("SIGKILL");
      await eventually(async () => !(await ready()), "workerd ends with the process that started it");
      child = await begin();
      await expectWhole(tenant.key);
      await must(201, call("POST", "/v1/heads", trainBody("support"), tenant.key));
      expect((await must(200, call("GET", "/v1/heads/support", undefined, tenant.key))).json.version).toBe(2);
    } finally {
      child.kill("SIGKILL");
      server = killed;
    }
  });
});
