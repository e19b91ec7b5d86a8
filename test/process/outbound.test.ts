/** Which hosts the Worker reaches on a machine of one's own, and that bodies and time limits pass through the proxy. */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  request as sendRequest,
} from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Resolve, startOutbound } from "../../src/server/outbound.ts";

const folder = mkdtempSync(join(tmpdir(), "graft-outbound-"));
const socketPath = join(folder, "outbound.sock");
afterAll(() => rmSync(folder, { recursive: true }));

/** A server on this machine, which no webhook may reach. */
let receiver: Server;
let port: number;
let arrivals: IncomingMessage[];
let handle: RequestListener;
beforeAll(async () => {
  receiver = createServer((request, response) => {
    arrivals.push(request);
    handle(request, response);
  }).listen(0);
  await once(receiver, "listening");
  port = (receiver.address() as AddressInfo).port;
});
afterAll(() => receiver.close());

let stop: () => Promise<void>;
beforeEach(() => {
  arrivals = [];
  handle = (_request, response) => response.end("arrived");
});
afterEach(() => stop());

/** Starts the proxy. Each look-up of a name takes the next answer, the last one again and again. */
async function start(answers: string[][], variables: Record<string, string> = {}) {
  const names: string[] = [];
  const resolve: Resolve = async (name) => {
    names.push(name);
    return (answers.length > 1 ? answers.shift() : answers[0]) ?? [];
  };
  stop = await startOutbound({ socketPath, variables, resolve });
  return names;
}

interface Message {
  readonly headers?: Record<string, string>;
  readonly body?: Iterable<string | Buffer>;
  readonly signal?: AbortSignal;
}

/** Sends what the runtime does: of a webhook, unless the headers say otherwise. */
async function send(url: string, { headers = { "graft-hops": "1" }, body = ["hello"], signal }: Message = {}) {
  const options = { socketPath, path: url, method: "POST", headers, agent: false };
  const outgoing = sendRequest(signal === undefined ? options : { ...options, signal });
  const answered = once(outgoing, "response");
  Readable.from(body).pipe(outgoing);
  const [answer] = (await answered) as [IncomingMessage];
  return answer;
}

async function expectRefused(answer: IncomingMessage): Promise<void> {
  expect([answer.statusCode, answer.headers["proxy-status"]]).toEqual([502, "graft; error=destination_ip_prohibited"]);
  answer.resume();
  expect(arrivals).toEqual([]);
}

describe("a host is public when it is connected to", () => {
  test("a name that was public before is not connected to where it leads now", async () => {
    const names = await start([["8.8.8.8"], ["127.0.0.1"]]);
    // The first connection goes to the public address, or nowhere without a network, and never here.
    await send(`http://rebind.test:${port}/`, { signal: AbortSignal.timeout(200) }).catch(() => undefined);
    expect(names).toEqual(["rebind.test"]);
    await expectRefused(await send(`http://rebind.test:${port}/`));
    expect(names).toEqual(["rebind.test", "rebind.test"]);
  });

  test.each([
    "127.0.0.1",
    "8.8.8.8 10.0.0.1",
    "169.254.169.254",
    "168.63.129.16",
    "100.64.0.1",
    "0.0.0.0",
    "::1",
    "2606:4700::1111 fd00::1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
  ])("not a name of %s", async (addresses) => {
    await start([addresses.split(" ")]);
    await expectRefused(await send(`http://hooks.test:${port}/`));
    await expectRefused(await send(`https://hooks.test:${port}/`));
  });

  test.each(["127.0.0.1", "[::1]", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "10.0.0.1"])(
    "not the address %s",
    async (host) => {
      const names = await start([]);
      await expectRefused(await send(`http://${host}:${port}/`));
      expect(names).toEqual([]);
    },
  );

  test("a name without an address breaks the connection, as an unreachable host does", async () => {
    await start([[]]);
    await expect(send(`http://nothing.test:${port}/`)).rejects.toThrow("socket hang up");
  });

  test("a receiver cannot speak for the proxy", async () => {
    await start([], { WEBHOOK_ORIGINS: `http://127.0.0.1:${port}` });
    handle = (_request, response) => {
      response.writeHead(200, { "proxy-status": "graft; error=destination_ip_prohibited" }).end();
    };
    const answer = await send(`http://127.0.0.1:${port}/`);
    expect([answer.statusCode, answer.headers["proxy-status"]]).toEqual([200, undefined]);
    answer.resume();
  });
});

test("what the operator names may be private: webhooks' origins for webhooks, services for the rest", async () => {
  const [webhooks, batch, backbone] = ["127.0.0.1", "localhost", "127.0.0.2"].map((host) => `http://${host}:${port}`);
  const entry = { kind: "openai", id: "e", model: "m", dimensions: 4, base_url: `${backbone}/v1` };
  await start([["127.0.0.1"]], {
    WEBHOOK_ORIGINS: webhooks ?? "",
    BATCH_URL: `${batch}/graft/`,
    BACKBONES: JSON.stringify([entry]),
  });
  const isRefused = async (url: string, isWebhook: boolean) => {
    const answer = await send(url, isWebhook ? {} : { headers: {} });
    return (await text(answer)) !== "arrived";
  };
  expect(await isRefused(`${webhooks}/a`, true)).toBe(false);
  expect(await isRefused(`${batch}/graft/v1/jobs`, false)).toBe(false);
  expect(await isRefused(`${backbone}/v1/embeddings`, false)).toBe(false);
  expect(arrivals.map(({ url }) => url)).toEqual(["/a", "/graft/v1/jobs", "/v1/embeddings"]);
  expect(await isRefused(`${webhooks}/a`, false)).toBe(true);
  expect(await isRefused(`${batch}/graft/v1/jobs`, true)).toBe(true);
  expect(await isRefused(`${backbone}/v1/embeddings`, true)).toBe(true);
  expect(await isRefused(`http://localhost.test:${port}/`, true)).toBe(true);
});

describe("a request and its answer", () => {
  const url = () => `http://127.0.0.1:${port}/a?b=c`;
  const allow = () => start([], { WEBHOOK_ORIGINS: `http://127.0.0.1:${port}` });

  test("arrive as they were sent, and no redirect is followed", async () => {
    await allow();
    let body = "";
    handle = async (request, response) => {
      body = await text(request);
      response
        .writeHead(302, { location: "/elsewhere", "set-cookie": ["a=1", "b=2"], "retry-after": "7" })
        .end("moved");
    };
    const answer = await send(url(), {
      headers: { "graft-hops": "1", "content-length": "5", "cf-worker": "zone" },
    });
    expect([
      answer.statusCode,
      answer.headers["retry-after"],
      answer.headers["set-cookie"],
      await text(answer),
    ]).toEqual([302, "7", ["a=1", "b=2"], "moved"]);
    expect(body).toBe("hello");
    expect(arrivals.map(({ method, url: path }) => [method, path])).toEqual([["POST", "/a?b=c"]]);
    const { host, "graft-hops": hops, "cf-worker": zone } = arrivals[0]?.headers ?? {};
    expect([host, hops, zone]).toEqual([`127.0.0.1:${port}`, "1", undefined]);
  });

  test("are streams both ways: the sender waits for the reader", async () => {
    await allow();
    const chunk = Buffer.alloc(2 ** 20);
    let sent = 0;
    const chunks = function* () {
      for (; sent < 100; sent++) yield chunk;
    };
    let read: (() => void) | undefined;
    handle = (request, response) => {
      read = () => request.pipe(response);
    };
    const answering = send(url(), { body: chunks() });
    await expect.poll(() => read).toBeDefined();
    await sleep(200);
    expect(sent).toBeLessThan(50);
    read?.();
    const answer = await answering;
    let bytes = 0;
    for await (const part of answer) bytes += (part as Buffer).length;
    expect(bytes).toBe(100 * 2 ** 20);
  });

  test("end where either side ends them", async () => {
    await allow();
    let isClosed = false;
    handle = (_request, response) => void response.once("close", () => (isClosed = true));
    await expect(send(url(), { signal: AbortSignal.timeout(100) })).rejects.toThrow("aborted");
    await expect.poll(() => isClosed).toBe(true);
    handle = (_request, response) => {
      response.write("half");
      setTimeout(() => response.destroy(), 20);
    };
    await expect(text(await send(url()))).rejects.toThrow("aborted");
  });
});
