/** A running server is backed up while it is written to, and answers the same from the restored state. */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, afterEach, expect, inject, test } from "vitest";
import { type Client, createClient } from "../../src/sdk/client.ts";
import { type Server, serve } from "../../src/server/runtime.ts";

const adminKey = "operator-key-of-the-tests";
const folder = mkdtempSync(join(tmpdir(), "graft-backup-test-"));
const program = join(import.meta.dirname, "..", "..", "src", "backup.ts");
const servers: Server[] = [];
afterEach(() => Promise.all(servers.splice(0).map((server) => server.stop())));
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }));

async function startServer(stateDir: string): Promise<Server> {
  const server = await serve(inject("bundles").deployed, { port: 0, stateDir, adminKey, log: () => undefined });
  servers.push(server);
  return server;
}

/** Runs what `npm run backup` and `npm run restore` run. */
async function run(command: "backup" | "restore", stateDir: string, file: string): Promise<void> {
  const env = { ...process.env, STATE_DIR: stateDir, BACKUP_PASSPHRASE: "the passphrase of the tests" };
  await promisify(execFile)(process.execPath, [program, command, file], { env });
}

const toExamples = (count: number, start = 0) =>
  Array.from({ length: count }, (_, i) => ({
    id: `example-${start + i}`,
    text: `${i % 2 ? "refund the charge" : "cannot log in"} ${start + i}`,
    label: i % 2 ? "billing" : "login",
  }));
const toFile = (count: number) =>
  new Blob([
    toExamples(count)
      .map((example) => JSON.stringify(example))
      .join("\n"),
  ]);

async function createTenant(url: string, id: string): Promise<{ key: string; graft: Client }> {
  const { key } = await createClient({ baseUrl: url, key: adminKey }).tenants.create({ id, name: `The tenant ${id}` });
  const graft = createClient({ baseUrl: url, key: key.secret });
  await graft.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
  await graft.datasets.add("tickets", toExamples(200));
  return { key: key.secret, graft };
}

/** The answers to a list of requests, one that changes nothing each. */
async function readAnswers(url: string, key: string, paths: readonly string[]): Promise<Record<string, string>> {
  const answers: Record<string, string> = {};
  for (const path of paths) {
    const response = await fetch(url + path, { headers: { authorization: `Bearer ${key}` } });
    answers[path] = `${response.status} ${await response.text()}`;
  }
  return answers;
}

test("every answer is the same from a restored state, predictions and secrets' signatures included", async () => {
  const [stateDir, restored, file] = [join(folder, "a"), join(folder, "a-restored"), join(folder, "a.backup")];
  const server = await startServer(stateDir);
  const { key, graft } = await createTenant(server.url, "acme");
  await graft.heads.train({ name: "support", dataset: "tickets", evaluation: { method: "none" } });
  await graft.heads.train({ name: "support", dataset: "tickets" });
  const uploaded = await graft.files.create(toFile(100), "train.jsonl");
  await graft.webhookEndpoints.create({ url: "https://example.com/", events: ["head.promoted"] });
  await graft.inboundHooks.create({
    name: "desk",
    action: "predict",
    head: "support",
    fields: { text: "/text" },
    verify: { scheme: "none" },
  });
  const idempotencyKey = "the creation of letters";
  const letters = { name: "letters", task: "single_label", modality: "text" } as const;
  const created = await graft.datasets.create(letters, { idempotencyKey });
  const paths = [
    ...["datasets", "datasets/tickets", "datasets/tickets/examples?limit=100", "datasets/tickets/export"],
    ...["heads", "heads/support", "heads/support/versions", "heads/support/versions/1/export", "heads/support/policy"],
    ...["files", `files/${uploaded.id}`, `files/${uploaded.id}/content`, "models", "fine_tuning/jobs", "limits"],
    ...["api_keys", "webhook_endpoints", "webhook_deliveries", "inbound_hooks"],
  ].map((path) => `/v1/${path}`);
  const input = ["please refund the charge", "I cannot log in"];
  const predictions = await graft.heads.predict("support", { input });
  const answers = await readAnswers(server.url, key, paths);
  expect(Object.values(answers).filter((answer) => !answer.startsWith("200 "))).toEqual([]);
  const tenants = await readAnswers(server.url, adminKey, ["/v1/admin/tenants", "/v1/admin/tenants/acme"]);

  await run("backup", stateDir, file);
  await run("restore", restored, file);
  await server.stop();
  servers.pop();
  const second = await startServer(restored);
  const restoredGraft = createClient({ baseUrl: second.url, key });
  expect(await readAnswers(second.url, key, paths)).toEqual(answers);
  expect(await readAnswers(second.url, adminKey, Object.keys(tenants))).toEqual(tenants);
  expect((await restoredGraft.heads.predict("support", { input })).data).toEqual(predictions.data);
  expect(await restoredGraft.datasets.create(letters, { idempotencyKey })).toEqual(created);
  expect((await restoredGraft.heads.train({ name: "support", dataset: "tickets", method: "head" })).version).toBe(3);
});

test("a backup that is killed while the runtime stands still lets it go on", async () => {
  const stateDir = join(folder, "c");
  const server = await startServer(stateDir);
  const isReady = (signal: AbortSignal) =>
    fetch(`${server.url}/health/ready`, { signal }).then(
      ({ ok }) => ok,
      () => false,
    );
  const module = join(import.meta.dirname, "..", "..", "src", "server", "backup", "freeze.ts");
  const standStill = `
    const { withFrozenRuntime } = await import(${JSON.stringify(module)});
    await withFrozenRuntime(${JSON.stringify(stateDir)}, 10_000, () => {
      require("node:fs").writeSync(1, "frozen");
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 600_000);
    });`;
  const backup = spawn(process.execPath, ["-e", `(async () => {${standStill}})()`], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(backup.stdout, "data");
  expect(await isReady(AbortSignal.timeout(500))).toBe(false);
  backup.kill("SIGKILL");
  expect(await isReady(AbortSignal.timeout(20_000))).toBe(true);
});

test("backups of a server that is written to are whole", async () => {
  const stateDir = join(folder, "b");
  const server = await startServer(stateDir);
  const { key, graft } = await createTenant(server.url, "busy");
  await graft.heads.train({ name: "support", dataset: "tickets", evaluation: { method: "none" } });
  let isRunning = true;
  const confirmed = { examples: 200, version: 1, files: 0 };
  let longestMs = 0;
  const repeat = async (work: () => Promise<void>) => {
    while (isRunning) await work();
  };
  const writers = [
    repeat(async () => {
      await graft.datasets.add("tickets", toExamples(20, confirmed.examples));
      confirmed.examples += 20;
    }),
    repeat(async () => {
      const { version } = await graft.heads.train({
        method: "head",
        name: "support",
        dataset: "tickets",
        evaluation: { method: "none" },
      });
      confirmed.version = version;
    }),
    repeat(async () => {
      // Bytes that come and go: what a copy of the stores one after the other would miss.
      const { id } = await graft.files.create(toFile(300), "short.jsonl");
      await graft.files.create(toFile(100), "kept.jsonl");
      confirmed.files++;
      await graft.files.delete(id);
    }),
    repeat(async () => {
      const startedAt = performance.now();
      await graft.heads.predict("support", { input: "refund" });
      longestMs = Math.max(longestMs, performance.now() - startedAt);
    }),
  ];
  const backups: { file: string; before: typeof confirmed }[] = [];
  for (const number of [1, 2, 3]) {
    const backup = { file: join(folder, `b-${number}.backup`), before: { ...confirmed } };
    await run("backup", stateDir, backup.file);
    backups.push(backup);
  }
  isRunning = false;
  await Promise.all(writers);
  expect(longestMs).toBeLessThan(10_000);

  for (const [i, { file, before }] of backups.entries()) {
    const restored = join(folder, `b-restored-${i}`);
    await run("restore", restored, file);
    const second = await startServer(restored);
    const restoredGraft = createClient({ baseUrl: second.url, key });
    const head = await restoredGraft.heads.get("support");
    expect(head.version).toBeGreaterThanOrEqual(before.version);
    for (const version of [1, head.version]) {
      const { data } = await restoredGraft.heads.predict("support", { input: "refund the charge", version });
      expect(data[0]?.label).toBe("billing");
    }
    const { examples } = await restoredGraft.datasets.get("tickets");
    expect(examples).toBeGreaterThanOrEqual(before.examples);
    const exported = await fetch(`${second.url}/v1/datasets/tickets/export`, {
      headers: { authorization: `Bearer ${key}` },
    });
    expect((await exported.text()).trim().split("\n")).toHaveLength(examples);
    const files = (await restoredGraft.files.list({ limit: 100 })).data;
    expect(files.filter(({ filename }) => filename === "kept.jsonl").length).toBeGreaterThanOrEqual(before.files);
    const contents = await readAnswers(
      second.url,
      key,
      files.map(({ id }) => `/v1/files/${id}/content`),
    );
    expect(files.map(({ id }) => contents[`/v1/files/${id}/content`]?.length)).toEqual(
      files.map(({ bytes }) => bytes + "200 ".length),
    );
    await second.stop();
    servers.pop();
  }
  expect(readFileSync(join(stateDir, "server-key"))).toEqual(readFileSync(join(folder, "b-restored-0", "server-key")));
});
