/** Uploads as networks and careless clients make them, to the real server over raw sockets. */
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, beforeEach, describe, expect, inject, test } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { type Server, serve } from "../../src/server/runtime.ts";

const folder = mkdtempSync(join(tmpdir(), "graft-uploads-"));
const adminKey = "operator-key-of-the-tests";
let server: Server;
let key: string;

beforeAll(async () => {
  server = await serve(inject("bundles").deployed, {
    port: 0,
    stateDir: join(folder, "state"),
    adminKey,
    log: () => {},
  });
  key = (await callApi("POST", "/v1/admin/tenants", { id: "acme" }, adminKey)).key.secret;
});

afterAll(async () => {
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
});

async function callApi(method: string, path: string, body?: object, token = key) {
  const response = await fetch(`${server.url}${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  // biome-ignore lint/suspicious/noExplicitAny: answers of every shape, and a missing field fails the test
  return response.json() as Promise<any>;
}

let datasets = 0;
let path: string;
let initialDataset: object;

/** Each test has a data set of one example, which it must leave as it was. */
beforeEach(async () => {
  const name = `d${++datasets}`;
  path = `/v1/datasets/${name}`;
  await callApi("POST", "/v1/datasets", { name, task: "single_label", modality: "text" });
  await callApi("POST", `${path}/examples`, { examples: [{ id: "0", text: "before", label: "x" }] });
  initialDataset = await callApi("GET", path);
  expect(initialDataset).toMatchObject({ examples: 1, revision: 1 });
});

async function expectUnchangedAndServing(): Promise<void> {
  // Its example may have been embedded in the background meanwhile.
  expect(await callApi("GET", path)).toEqual({ ...(initialDataset as object), embedded: expect.anything() });
  const imported = await callApi("POST", `${path}/examples`, { examples: [{ text: "after", label: "y" }] });
  expect(imported).toMatchObject({ added: 1, dataset: { examples: 2, revision: 2 } });
}

/** A socket on which the head of a request has been sent. */
async function openRequest(head: readonly string[], method = "POST", target = `${path}/examples`): Promise<Socket> {
  const { hostname, port } = new URL(server.url);
  const socket = connect(Number(port), hostname);
  // The server may hang up on what it refuses: what it answered before that is what counts.
  socket.on("error", () => {});
  await once(socket, "connect");
  const lines = [`${method} ${target} HTTP/1.1`, `host: ${hostname}`, `authorization: Bearer ${key}`, ...head];
  socket.write(`${lines.join("\r\n")}\r\n\r\n`);
  return socket;
}

/** Everything that the server answers until it hangs up or has answered a whole small answer. */
async function readResponse(socket: Socket): Promise<string> {
  let text = "";
  const response = new Promise<string>((resolve) => {
    socket.on("data", (data) => {
      text += data;
      if (/\r\n\r\n[\s\S]*\}/.test(text)) resolve(text);
    });
    socket.on("close", () => resolve(text));
  });
  return response;
}

/** Writes, and waits until the kernel has taken it all: a server that hangs up meanwhile would take its answer along. */
async function send(socket: Socket, data: Buffer): Promise<void> {
  if (!socket.write(data)) await once(socket, "drain");
}

const encodeChunk = (data: Buffer): Buffer =>
  Buffer.concat([Buffer.from(`${data.length.toString(16)}\r\n`), data, Buffer.from("\r\n")]);

const rows: Record<string, (count: number) => string> = {
  "text/csv": (count) => `text,label\n${"a text,x\n".repeat(count)}`,
  "application/x-ndjson": (count) => '{"text":"a text","label":"x"}\n'.repeat(count),
  "application/json": (count) => `{"examples":[${'{"text":"a text","label":"x"},'.repeat(count)}`,
};

describe("an upload that is cut half-way leaves the dataset as it was", () => {
  const disconnects: [string, (socket: Socket) => void][] = [
    ["reset", (socket) => socket.resetAndDestroy()],
    ["closed", (socket) => socket.end()],
  ];
  for (const type of Object.keys(rows)) {
    test.each(disconnects)(`${type} of a declared length, %s`, async (_how, disconnect) => {
      const body = rows[type]?.(5000) ?? "";
      const socket = await openRequest([`content-type: ${type}`, `content-length: ${2 * body.length}`]);
      socket.write(body);
      await sleep(300);
      disconnect(socket);
      await sleep(300);
      await expectUnchangedAndServing();
    });

    test.each(disconnects)(`${type} in chunks, %s`, async (_how, disconnect) => {
      const socket = await openRequest([`content-type: ${type}`, "transfer-encoding: chunked"]);
      socket.write(encodeChunk(Buffer.from(rows[type]?.(5000) ?? "")));
      await sleep(300);
      disconnect(socket);
      await sleep(300);
      await expectUnchangedAndServing();
    });
  }

  test("and so does a body of another route", async () => {
    for (const target of ["/v1/datasets", "/v1/heads", "/v1/api_keys"]) {
      const socket = await openRequest(["content-type: application/json", "content-length: 1000"], "POST", target);
      socket.write('{"name":"half"');
      await sleep(100);
      socket.resetAndDestroy();
    }
    expect(await callApi("GET", "/v1/heads")).toMatchObject({ data: [] });
    await expectUnchangedAndServing();
  });
});

test("a slow upload holds up nobody, and counts when it is done", async () => {
  const socket = await openRequest(["content-type: application/x-ndjson", "transfer-encoding: chunked"]);
  const answer = readResponse(socket);
  for (let i = 0; i < 10; i++) {
    socket.write(encodeChunk(Buffer.from(`{"id":"${i + 1}","text":"slow ${i}","label":"x"}\n`)));
    expect(await callApi("GET", path)).toEqual(initialDataset);
    await sleep(50);
  }
  socket.write("0\r\n\r\n");
  expect(await answer).toMatch(/^HTTP\/1\.1 200/);
  expect(await callApi("GET", path)).toMatchObject({ examples: 11, revision: 2 });
  socket.destroy();
});

describe("more than the limit", () => {
  test("is refused by its declared length before it is sent", async () => {
    const socket = await openRequest(["content-type: text/csv", `content-length: ${limits.import_body_bytes + 1}`]);
    const answer = await readResponse(socket);
    expect(answer).toMatch(/^HTTP\/1\.1 413/);
    expect(answer).toContain('"body_too_large"');
    socket.destroy();
    await expectUnchangedAndServing();
  });

  const endless: [string, string, string, Buffer][] = [
    ["lines of 2 MB", "application/x-ndjson", "", Buffer.from(`${"x".repeat(2 * 1024 * 1024)}\n`)],
    ["one line without an end", "application/x-ndjson", "", Buffer.alloc(1024 * 1024, "x")],
    ["quotes without an end", "text/csv", "text,label\n", Buffer.from(`"${`${"x".repeat(1023)}\n`.repeat(1023)}`)],
    ["JSON", "application/json", "", Buffer.alloc(1024 * 1024, " ")],
  ];

  /** All that the limit allows, which is not answered, and then one byte, which is. */
  async function sendEndless(type: string, start: string, data: Buffer): Promise<void> {
    const limit = type === "application/json" ? limits.json_body_bytes : limits.import_body_bytes;
    const socket = await openRequest([`content-type: ${type}`, "transfer-encoding: chunked"]);
    const answer = readResponse(socket);
    if (start !== "") socket.write(encodeChunk(Buffer.from(start)));
    for (let bytesLeft = limit - start.length; bytesLeft > 0; bytesLeft -= data.length)
      await send(socket, encodeChunk(data.subarray(0, bytesLeft)));
    await send(socket, encodeChunk(Buffer.from("x")));
    expect(await answer).toMatch(/^HTTP\/1\.1 413/);
    socket.destroy();
  }

  test.each(endless)("is refused when it gets there, in bounded memory: %s", async (what, type, start, data) => {
    // The first time lets the runtime take what it keeps from then on.
    await sendEndless(type, start, data);
    const idleBytes = runtimeMemory();
    expect(idleBytes).toBeGreaterThan(10 * 1024 * 1024);
    let peakBytes = idleBytes;
    const samplingTimer = setInterval(() => {
      peakBytes = Math.max(peakBytes, runtimeMemory());
    }, 100);
    await sendEndless(type, start, data);
    clearInterval(samplingTimer);
    expect(peakBytes - idleBytes, what).toBeLessThan(0.9 * limits.import_body_bytes);
    await expectUnchangedAndServing();
  });
});

describe("what is no HTTP, or hardly", () => {
  test.each([
    ["noise", "\u0000\u0001\u0002 nonsense\r\n\r\n"],
    ["a length that is none", `POST /v1/datasets HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n{}`],
    ["chunks that are none", "POST /v1/datasets HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"],
    [
      "a header of 200 KB",
      `GET /v1/datasets HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${"x".repeat(200_000)}\r\n\r\n`,
    ],
  ])("%s is refused, and the server goes on", async (_what, bytes) => {
    const { hostname, port } = new URL(server.url);
    const socket = connect(Number(port), hostname);
    socket.on("error", () => {});
    const answer = readResponse(socket);
    socket.write(bytes);
    expect(await Promise.race([answer, sleep(2000, "")])).not.toMatch(/^HTTP\/1\.1 [25]/);
    socket.destroy();
    await expectUnchangedAndServing();
  });
});

/** Resident bytes of the runtimes that this process has started. */
function runtimeMemory(): number {
  const table = execFileSync("ps", ["-A", "-o", "pid=,ppid=,rss="], { encoding: "utf8" });
  const processes = table
    .trim()
    .split("\n")
    .map((line) => line.trim().split(/\s+/).map(Number) as [number, number, number]);
  return 1024 * processes.reduce((sum, [, parent, kilobytes]) => (parent === process.pid ? sum + kilobytes : sum), 0);
}
