/** What a stranger on the network, and one on this machine, reaches of a server; and what a kill leaves of it. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { request } from "node:https";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, afterEach, expect, inject, test } from "vitest";
import { createClient } from "../../src/sdk/client.ts";
import { createDataset, freePort, waitFor } from "./processes.ts";

const root = resolve(import.meta.dirname, "../..");
const folder = mkdtempSync(join(tmpdir(), "graft-front-test-"));
const adminKey = "operator-key-of-the-tests";
const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children) child.kill("SIGKILL");
});
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }));

/** What `npm start` runs, with a Worker that is built already. */
function startServer(stateDir: string, port: number, env: Record<string, string> = {}) {
  const own = { PORT: String(port), STATE_DIR: stateDir, ADMIN_KEY: adminKey, BATCH_JOBS: "0" };
  const settings = { ...own, BUNDLE_DIR: inject("bundles").deployed, ...env };
  const child = spawn(process.execPath, [join(root, "src/serve.ts")], {
    cwd: root,
    env: { ...process.env, ...settings },
  });
  children.push(child);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (output += text));
  const url = `http://127.0.0.1:${port}`;
  const isReady = () => createClient({ baseUrl: url, key: adminKey }).ready();
  const ready = () => waitFor(isReady, "the server is ready", 90_000);
  const exited = new Promise<number | null>((done) => child.once("close", done));
  return { child, url, ready, exited, output: () => output };
}

/** The processes that a process has started, by their command. */
function childrenOf(parent: number, command: string): number[] {
  return readdirSync("/proc").flatMap((name) => {
    try {
      const [, , ppid] = /\((.*)\) \S (\d+)/.exec(readFileSync(`/proc/${Number(name)}/stat`, "utf8")) ?? [];
      const line = readFileSync(`/proc/${Number(name)}/cmdline`, "utf8").replaceAll("\0", " ");
      return Number(ppid) === parent && line.includes(command) ? [Number(name)] : [];
    } catch {
      return [];
    }
  });
}

const runtimesOf = ({ pid = 0 }: ChildProcess) => childrenOf(pid, "workerd serve");

function isRunning(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

function exchange(port: number, text: string): Promise<string> {
  return new Promise((done) => {
    let answer = "";
    const socket = connect(port, "127.0.0.1", () => socket.write(text));
    socket.on("data", (chunk) => (answer += chunk.toString()));
    socket.on("error", () => undefined).on("close", () => done(answer));
  });
}

test("nothing but the API is reached, and the files are for their user alone", async () => {
  const stateDir = join(folder, "doors");
  const port = await freePort();
  const server = startServer(stateDir, port, { MIN_FREE_BYTES: "0" });
  await server.ready();
  const { key } = await createClient({ baseUrl: server.url, key: adminKey }).tenants.create({ id: "acme" });
  const graft = createClient({ baseUrl: server.url, key: key.secret });
  await createDataset(graft, "tickets", 10);
  await graft.heads.train({ name: "support", dataset: "tickets", method: "head", evaluation: { method: "none" } });

  const [artifact = ""] = execFileSync("find", [join(stateDir, "r2"), "-type", "f"], { encoding: "utf8" }).split("\n");
  expect(artifact).not.toBe("");
  for (const target of [
    "/cdn-cgi/local/r2/public/BUCKET/tenants/acme",
    "/cdn-cgi/local/explorer",
    "/v1/../cdn-cgi/local/explorer",
    "http://x/cdn-cgi/local/explorer",
  ]) {
    const answer = await exchange(port, `GET ${target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`);
    expect(answer).toMatch(/^HTTP\/1\.1 404 /);
    expect(answer).toContain('"code":"not_found"');
  }
  for (const header of ["MF-Original-URL: http://x/cdn-cgi/local/explorer", "MF-Original-URL: //", "MF-CF-Blob: x"]) {
    const answer = await exchange(
      port,
      `GET /v1/datasets HTTP/1.1\r\nhost: x\r\nconnection: close\r\n${header}\r\n\r\n`,
    );
    expect(answer).toMatch(/^HTTP\/1\.1 401 /);
    expect(answer).toContain('"code":"invalid_api_key"');
  }
  expect(await exchange(port, "CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n")).toContain('"code":"malformed_request"');

  // No process of the server listens on a port but the front, and Miniflare's own, which asks for a secret.
  const listeners = execFileSync("ss", ["-ltnpH"], { encoding: "utf8" }).split("\n");
  const [runtime = 0] = runtimesOf(server.child);
  expect(listeners.filter((line) => line.includes(`pid=${runtime},`))).toEqual([]);
  for (const line of listeners.filter((line) => line.includes(`pid=${server.child.pid},`))) {
    const other = Number(/127\.0\.0\.1:(\d+)/.exec(line)?.[1]);
    if (other !== port) expect((await fetch(`http://127.0.0.1:${other}/`)).status).toBe(403);
  }
  const open = execFileSync("find", [stateDir, "-perm", "/077"], { encoding: "utf8" });
  expect(open).toBe("");
  expect(statSync(join(stateDir, "runtime.sock")).isSocket()).toBe(true);

  server.child.kill("SIGTERM");
  expect(await server.exited).toBe(0);
  expect(existsSync(join(stateDir, "runtime.sock"))).toBe(false);
});

test("the runtime that replaced a killed one ends with the server, and the state has one writer", async () => {
  const stateDir = join(folder, "killed");
  const port = await freePort();
  const server = startServer(stateDir, port);
  await server.ready();
  await createClient({ baseUrl: server.url, key: adminKey }).tenants.create({ id: "acme" });
  const [first = 0] = runtimesOf(server.child);
  process.kill(first, "SIGKILL");
  const second = await waitFor(
    async () => runtimesOf(server.child).find((pid) => pid !== first) ?? null,
    "a second runtime",
  );
  await server.ready();
  server.child.kill("SIGKILL");
  await waitFor(async () => !isRunning(second), "the second runtime ends");

  // A runtime whose watchdog was killed too still holds the state.
  const next = startServer(stateDir, port);
  await next.ready();
  const [orphan = 0] = runtimesOf(next.child);
  for (const pid of childrenOf(next.child.pid ?? 0, "read -r _")) process.kill(pid, "SIGKILL");
  next.child.kill("SIGKILL");
  await next.exited;
  expect(isRunning(orphan)).toBe(true);
  const refused = startServer(stateDir, await freePort());
  expect(await refused.exited).toBe(1);
  expect(refused.output()).toContain(`Another server runs on the state in '${stateDir}'.`);
  process.kill(orphan, "SIGKILL");
  await startServer(stateDir, port).ready();
});

/** Answers of a server that is reached by TLS. */
function getByTls(port: number, path: string, ca: Buffer): Promise<{ status: number | undefined; text: string }> {
  return new Promise((done, fail) => {
    const options = { host: "127.0.0.1", port, path, ca, servername: "graft.test", agent: false };
    request(options, async (answer) => done({ status: answer.statusCode, text: await text(answer) }))
      .on("error", fail)
      .end();
  });
}

test("TLS by files, on the address of HOST, with a batch endpoint", async () => {
  const [TLS_CERT, TLS_KEY] = [join(folder, "cert.pem"), join(folder, "key.pem")];
  const subject = ["-subj", "/CN=graft.test", "-addext", "subjectAltName=DNS:graft.test"];
  const files = ["-keyout", TLS_KEY, "-out", TLS_CERT];
  execFileSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", ...subject, ...files], {
    stdio: "ignore",
  });
  const port = await freePort();
  const env = { HOST: "0.0.0.0", TLS_CERT, TLS_KEY, BATCH_JOBS: "1" };
  const server = startServer(join(folder, "tls"), port, env);
  const ca = readFileSync(TLS_CERT);
  const get = (path: string) => getByTls(port, path, ca);
  const isReady = async () => (await get("/health/ready")).status === 200;
  await waitFor(isReady, "the server is ready", 90_000);
  expect(server.output()).toContain(`Graft listens on https://127.0.0.1:${port}, `);
  expect(readFileSync(`/proc/${server.child.pid}/net/tcp`, "utf8")).toContain(
    ` 00000000:${port.toString(16).toUpperCase().padStart(4, "0")} 00000000:0000 0A `,
  );
  expect(JSON.parse((await get("/v1/models")).text)).toMatchObject({ error: { code: "invalid_api_key" } });
  await expect(fetch(`http://127.0.0.1:${port}/health/live`)).rejects.toThrow();
  const check = (PORT: string) =>
    spawnSync(process.execPath, [join(root, "src/server/health-check.ts")], { env: { PORT, TLS_CERT } }).status;
  expect([check(String(port)), check(String(await freePort()))]).toEqual([0, 1]);
  server.child.kill("SIGTERM");
  expect(await server.exited).toBe(0);
});

test.each([
  ["HOST", { HOST: "192.0.2.1" }, /^PORT \d+ of 192\.0\.2\.1 is not to be had \(EADDRNOTAVAIL\)\.\n$/],
  ["STATE_DIR", { STATE_DIR: "/proc/state" }, /^The state cannot be kept in STATE_DIR '\/proc\/state': [^\n]*\.\n$/],
  ["BUNDLE_DIR", { BUNDLE_DIR: "/nothing" }, /^BUNDLE_DIR '\/nothing' has no Worker\. [^\n]*\n$/],
])("a %s that cannot be used ends the start with one line", async (_name, env, line) => {
  const { exited, output } = startServer(join(folder, "refused"), await freePort(), env);
  expect(await exited).toBe(1);
  expect(output()).toMatch(line);
});

test("a disk with too little space takes no more, and what is stored is still served", async () => {
  const stateDir = join(folder, "full");
  const port = await freePort();
  const server = startServer(stateDir, port);
  await server.ready();
  const { key } = await createClient({ baseUrl: server.url, key: adminKey }).tenants.create({ id: "acme" });
  const graft = createClient({ baseUrl: server.url, key: key.secret });
  await createDataset(graft, "tickets", 10);
  await graft.heads.train({ name: "support", dataset: "tickets", method: "head", evaluation: { method: "none" } });
  server.child.kill("SIGTERM");
  await server.exited;

  const full = startServer(stateDir, port, { MIN_FREE_BYTES: "9000000000000000" });
  const readiness = await waitFor(() => fetch(`${full.url}/health/ready`), "the server answers", 90_000);
  expect([readiness.status, await readiness.json()]).toEqual([503, { status: "unavailable", reason: "storage_full" }]);
  await expect(graft.datasets.create({ name: "b", task: "single_label", modality: "text" })).rejects.toMatchObject({
    status: 507,
    code: "storage_full",
  });
  expect((await graft.datasets.list()).data).toHaveLength(1);
  expect((await graft.heads.predict("support", { input: "a refund" })).data).toHaveLength(1);
});
