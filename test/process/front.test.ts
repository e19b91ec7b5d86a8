/** The front before a runtime that tells what has reached it. */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Front, type FrontOptions, startFront } from "../../src/front/server.ts";

const folder = mkdtempSync(join(tmpdir(), "graft-front-"));
const socketPath = join(folder, "runtime.sock");

/** Answers each request with what it was. */
const echo = async (request: IncomingMessage, response: ServerResponse) => {
  const { method, url, headers } = request;
  let bytes = 0;
  request.on("data", (chunk) => {
    bytes += chunk.length;
  });
  await once(request, "end").catch(() => undefined);
  response.setHeader("mf-secret", "of the runtime").setHeader("content-type", "application/json");
  response.end(JSON.stringify({ method, url, headers, bytes }));
};
let handle: (request: IncomingMessage, response: ServerResponse) => unknown = echo;
let isStorageFull = false;
let front: Front;
let runtime: ReturnType<typeof createServer>;

async function startRuntime(): Promise<void> {
  runtime = createServer((request, response) => handle(request, response)).listen(socketPath);
  await once(runtime, "listening");
}

async function stopRuntime(): Promise<void> {
  runtime.closeAllConnections();
  runtime.close();
  await once(runtime, "close");
}

async function start(options: Partial<FrontOptions> = {}): Promise<void> {
  const routes = ["/v1", "/health", "/docs"];
  const shared = { host: "127.0.0.1", port: 0, socketPath, routes, trustedProxies: 0 };
  front = await startFront({ ...shared, isStorageFull: () => isStorageFull, ...options });
}

beforeEach(async () => {
  handle = echo;
  isStorageFull = false;
  await startRuntime();
});

afterEach(async () => {
  await stopRuntime();
  await front.close();
  rmSync(socketPath, { force: true });
});

const address = (path: string) => `http://127.0.0.1:${front.port}${path}`;

function open(): Socket {
  return connect({ port: front.port, host: "127.0.0.1" }).on("error", () => undefined);
}

/** What comes back on a connection of its own until the front closes it. */
async function exchange(...lines: string[]): Promise<string> {
  const socket = open();
  let answer = "";
  socket.on("data", (chunk) => (answer += chunk.toString()));
  socket.write(`${lines.join("\r\n")}\r\n\r\n`);
  await once(socket, "close");
  return answer;
}

const get = (target: string, ...headers: string[]) =>
  exchange(
    `GET ${target} HTTP/1.1`,
    ...(headers.some((h) => /^host:/i.test(h)) ? [] : ["host: x"]),
    "connection: close",
    ...headers,
  );

/** Checks that an answer is an error in the API's shape. */
function expectError(answer: string, status: number, code: string): void {
  const [head = "", body = ""] = answer.split("\r\n\r\n");
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
  const { error } = JSON.parse(body);
  expect(error).toEqual({
    message: expect.stringMatching(/\.$/),
    type: expect.any(String),
    code,
    param: null,
    request_id: expect.stringMatching(/^req_[0-9a-f]{32}$/),
    doc_url: expect.stringMatching(new RegExp(`^(http://[^/]+)?/docs/errors/${code}$`)),
  });
  expect(head.toLowerCase()).toContain(`x-request-id: ${error.request_id}`);
  expect(head.includes("x-should-retry: false")).toBe(code !== "request_timeout");
}

const parseBody = (answer: string) =>
  JSON.parse(
    answer
      .split("\r\n\r\n")
      .at(-1)
      ?.match(/\{.*\}/s)?.[0] ?? "null",
  );

describe("what reaches the runtime", () => {
  test.each([
    "/cdn-cgi/local/r2/public/graft/tenants/acme/files/file-1",
    "/v1/../cdn-cgi/local/explorer",
    "/v1/%2e%2e/cdn-cgi/local/explorer",
    "/v1\\..\\..\\cdn-cgi\\local",
    "//x/v1/models",
    "/v1x",
    "/",
    "http://x/cdn-cgi/local",
    "http://x/v1/models",
    "*",
  ])("not %s", async (target) => {
    await start();
    let requests = 0;
    handle = () => requests++;
    expectError(await get(target), 404, "not_found");
    expect(requests).toBe(0);
  });

  test.each(["/v1/models?limit=1", "/v1/heads/a.b/versions/3", "/health/ready", "/docs"])("%s", async (target) => {
    await start();
    expect(parseBody(await get(target))).toMatchObject({ method: "GET", url: target });
  });

  test("a path as the Worker will read it, without dot segments", async () => {
    await start();
    expect(parseBody(await get("/docs/../v1/./models"))).toMatchObject({ url: "/v1/models" });
  });

  test.each(["TRACE", "PROPFIND"])("not %s", async (method) => {
    await start();
    const answer = await exchange(`${method} /v1/models HTTP/1.1`, "host: x", "connection: close");
    expectError(answer, 405, "method_not_allowed");
    expect(answer).toContain("allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n");
  });

  test("no header that the runtime obeys, and the true address of the client", async () => {
    await start();
    const forged = [
      "MF-Original-URL: http://x/cdn-cgi",
      "mf-cf-blob: x",
      "CF-Connecting-IP: 1.2.3.4",
      "x-forwarded-for: 1.2.3.4",
    ];
    const kept = ["authorization: Bearer a", "idempotency-key: b"];
    const answer = await get("/v1/a", ...forged, "Connection: x-hop", "x-hop: 1", ...kept);
    const { headers } = parseBody(answer);
    expect(headers).toEqual({
      host: "x",
      authorization: "Bearer a",
      "idempotency-key": "b",
      "cf-connecting-ip": "127.0.0.1",
      connection: "keep-alive",
    });
    expect(answer).not.toContain("mf-secret");
  });

  test.each([
    [1, "1.1.1.1, 2.2.2.2", "2.2.2.2"],
    [2, "9.9.9.9, 1.1.1.1, 2.2.2.2", "1.1.1.1"],
    [3, "2.2.2.2", "127.0.0.1"],
  ])("behind %i proxies, of '%s' the client %s", async (trustedProxies, forwarded, client) => {
    await start({ trustedProxies });
    const { headers } = parseBody(await get("/v1/a", `X-Forwarded-For: ${forwarded}`, "X-Forwarded-Proto: https"));
    expect(headers["cf-connecting-ip"]).toBe(client);
    expect(headers["mf-original-url"]).toBe("https://x/v1/a");
  });

  test("no request without its whole body", async () => {
    await start();
    let error: unknown;
    handle = (request) => request.on("data", () => undefined).on("error", (e) => (error = e));
    const socket = open();
    socket.write("POST /v1/a HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nabc");
    await sleep(100);
    socket.destroy();
    await expect.poll(() => error).toMatchObject({ code: "ECONNRESET" });
    const requests: unknown[] = [];
    handle = (request) => requests.push(request.url);
    const small = open();
    small.write("POST /v1/a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc");
    await sleep(100);
    small.destroy();
    await sleep(100);
    expect(requests).toEqual([]);
  });
});

describe("is refused in the API's shape", () => {
  test.each([
    [["CONNECT x:80 HTTP/1.1", "host: x"]],
    [["GET /v1/a HTTP/1.1", "connection: upgrade, close", "upgrade: websocket", "host: x"]],
    [["GET /v1/a HTTP/1.1", "connection: close"]],
    [["GET /v1/a HTTP/1.1", "connection: close", "host: x/cdn-cgi/local/explorer?"]],
    [["GET /v1/a HTTP/1.1", "connection: close", "host: a b"]],
    [["POST /v1/a HTTP/1.1", "host: x", "connection: close", "transfer-encoding: gzip, chunked"]],
    [["POST /v1/a HTTP/1.1", "host: x", "content-length: 3", "transfer-encoding: chunked"]],
    [["GET /v1/a HTTP/1.1", "host: x", `x-long: ${"a".repeat(20_000)}`]],
    [["not http"]],
  ])("%j", async (lines) => {
    await start();
    expectError(await exchange(...lines), 400, "malformed_request");
  });

  test("what comes too slowly: headers, and bodies", async () => {
    await start({ limits: { headersMs: 200, graceMs: 200, bytesPerSecond: 1e6 } });
    for (const begin of ["GET /v1/a", "POST /v1/a HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"]) {
      const socket = open();
      let answer = "";
      socket.on("data", (chunk) => (answer += chunk.toString()));
      socket.write(begin);
      const timer = setInterval(() => socket.write("a"), 50);
      await once(socket, "close");
      clearInterval(timer);
      expectError(answer, 408, "request_timeout");
    }
  });

  test("what comes while the runtime is away", async () => {
    await start();
    expect((await fetch(address("/v1/a"))).status).toBe(200);
    await stopRuntime();
    const answer = await fetch(address("/v1/a"), { method: "POST", body: "x" });
    expect([answer.status, answer.headers.get("retry-after")]).toEqual([503, "2"]);
    expect(await answer.json()).toMatchObject({ error: { code: "capacity_exceeded", type: "capacity_error" } });
    await startRuntime();
    expect((await fetch(address("/v1/a"))).status).toBe(200);
  });

  test("with the address of the error's page, as the client has reached the server", async () => {
    await start();
    const docUrl = async (...headers: string[]) => parseBody(await get("/nothing", ...headers)).error.doc_url;
    expect(await docUrl("host: graft.example:8787")).toBe("http://graft.example:8787/docs/errors/not_found");
    const proxied = await docUrl("host: graft.example", "x-forwarded-proto: https");
    expect(proxied).toBe("https://graft.example/docs/errors/not_found");
    const malformed = parseBody(await get("/v1/a", "host: a b"));
    expect(malformed.error.doc_url).toBe("/docs/errors/malformed_request");
  });

  test("an exception of the runtime itself", async () => {
    await start();
    handle = (_request, response) => {
      response.writeHead(500, { "MF-Experimental-Error-Stack": "true" });
      response.end("a stack");
    };
    const answer = await fetch(address("/v1/a"));
    expect(answer.status).toBe(500);
    expect(await answer.json()).toMatchObject({ error: { code: "internal_error" } });
  });
});

describe("bodies are streams", () => {
  const CHUNK = Buffer.alloc(2 ** 20);

  test("an upload waits for the runtime to read", async () => {
    await start();
    let sent = 0;
    const chunks = function* () {
      for (; sent < 100; sent++) yield CHUNK;
    };
    let reading: (() => void) | undefined;
    handle = (request, response) => {
      reading = () => void echo(request, response);
    };
    const body = Readable.toWeb(Readable.from(chunks())) as BodyInit;
    // Node streams a body only with `duplex`, which the platform's types lack.
    const answer = fetch(address("/v1/a"), { method: "POST", body, duplex: "half" } as RequestInit);
    await expect.poll(() => reading).toBeDefined();
    await sleep(300);
    expect(sent).toBeLessThan(50);
    reading?.();
    expect(await (await answer).json()).toMatchObject({ bytes: 100 * 2 ** 20 });
  });

  test("an answer waits for the client to read", async () => {
    await start();
    let written = 0;
    handle = (_request, response) => {
      const chunks = function* () {
        for (; written < 100; written++) yield CHUNK;
      };
      Readable.from(chunks()).pipe(response);
    };
    const answer = await fetch(address("/v1/a"));
    await sleep(300);
    expect(written).toBeLessThan(50);
    expect((await answer.arrayBuffer()).byteLength).toBe(100 * 2 ** 20);
  });

  test("the runtime can answer by the headers alone", async () => {
    await start();
    handle = (_request, response) => response.writeHead(413).end("too large");
    const socket = open();
    socket.write("POST /v1/a HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n");
    const [answer] = await once(socket, "data");
    expect(String(answer)).toMatch(/^HTTP\/1\.1 413 /);
    socket.destroy();
  });

  test("an answer before the end of an upload arrives", async () => {
    await start();
    handle = (_request, response) => response.writeHead(413).end("too large");
    const body = Buffer.alloc(4 * 2 ** 20);
    const answer = await fetch(address("/v1/a"), { method: "POST", body });
    expect([answer.status, await answer.text()]).toEqual([413, "too large"]);
  });

  test("an answer that breaks off is not whole for the client either", async () => {
    await start();
    handle = (_request, response) => {
      response.write("half");
      setTimeout(() => response.destroy(), 50);
    };
    const answer = await fetch(address("/v1/a"));
    await expect(answer.text()).rejects.toThrow();
  });

  test("the runtime learns that the client has gone", async () => {
    await start();
    let gone = false;
    let asked = false;
    handle = (_request, response) => {
      asked = true;
      response.once("close", () => {
        gone = true;
      });
    };
    const controller = new AbortController();
    const answer = fetch(address("/v1/a"), { signal: controller.signal }).catch(() => undefined);
    await expect.poll(() => asked).toBe(true);
    controller.abort();
    await answer;
    await expect.poll(() => gone).toBe(true);
  });

  test("a client that does not read is let go", async () => {
    await start({ limits: { graceMs: 200, bytesPerSecond: 1e9 } });
    let gone = false;
    handle = (_request, response) => {
      response.once("close", () => {
        gone = true;
      });
      response.write(Buffer.alloc(64 * 2 ** 20));
    };
    const socket = open();
    socket.pause();
    socket.write("GET /v1/a HTTP/1.1\r\nhost: x\r\n\r\n");
    await expect.poll(() => gone, { timeout: 5_000 }).toBe(true);
    socket.destroy();
  });
});

test("a full disk takes no more, and everything else goes on", async () => {
  await start();
  isStorageFull = true;
  for (const path of ["/v1/datasets", "/v1/datasets/a/examples", "/v1/heads", "/v1/inbound/token", "/v1/files"]) {
    const answer = await fetch(address(path), { method: "POST", body: "{}" });
    expect([path, answer.status, answer.headers.get("retry-after")]).toEqual([path, 507, "60"]);
    expect(await answer.json()).toMatchObject({ error: { code: "storage_full", type: "capacity_error" } });
  }
  const ready = await fetch(address("/health/ready"));
  expect([ready.status, await ready.json()]).toEqual([503, { status: "unavailable", reason: "storage_full" }]);
  const open = [
    ["GET", "/v1/datasets"],
    ["GET", "/health/live"],
    ["POST", "/v1/heads/support/predict"],
    ["POST", "/v1/embeddings"],
    ["DELETE", "/v1/datasets/a"],
  ] as const;
  for (const [method, path] of open) expect((await fetch(address(path), { method })).status).toBe(200);
  isStorageFull = false;
  expect((await fetch(address("/v1/datasets"), { method: "POST", body: "{}" })).status).toBe(200);
});

test("connections that do nothing are closed, and there are no more than allowed", async () => {
  await start({ limits: { connections: 2, headersMs: 300 } });
  const sockets = [open(), open(), open()];
  await Promise.all(sockets.map((socket) => once(socket.resume(), "close")));
  expect((await fetch(address("/v1/a"))).status).toBe(200);
});
