/** The batch endpoint as the Worker calls it, against a server that answers anything. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type BatchEndpoint, stopAttempt, submitAttempt } from "../../src/jobs/client.ts";
import { type Stop, type Submission, stop, submission } from "../../src/jobs/protocol.ts";
import { verify } from "../../src/jobs/sign.ts";
import { parseRetryAfter } from "../../src/lib/retry.ts";

const secret = `whsec_${Buffer.from("a secret of 24 bytes ...").toString("base64")}`;
const id = `ftjob-${"0123456789abcdef".repeat(2)}`;
const sampleSubmission: Submission = {
  object: "batch.job",
  id,
  attempt: 2,
  tenant: "acme",
  token: "gb_acme",
  created_at: 1_767_225_600,
  task: "single_label",
  modality: "text",
  backbone: { id: "text-static-1", revision: "1" },
  dimensions: 256,
  out_of_scope_label: null,
  trainable: "head",
  hyperparameters: { l2: "auto", class_weight: null, lexical: "auto", seed: 1 },
  evaluation: { method: "auto" },
  edge_budget: { bytes: 1, operations: 1 },
  checkpoint: null,
  heartbeat_seconds: 15,
};
const sampleStop: Stop = { object: "batch.stop", id, attempt: 2, action: "pause" };

interface Call {
  readonly method: string | undefined;
  readonly url: string | undefined;
  readonly headers: Headers;
  readonly body: string;
}
type Handler = (response: ServerResponse) => void;

let server: Server;
let calls: Call[];
let handler: Handler;
beforeEach(async () => {
  calls = [];
  server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const headers = new Headers(request.headers as Record<string, string>);
      calls.push({ method: request.method, url: request.url, headers, body: Buffer.concat(chunks).toString() });
      handler(response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
});
afterEach(close);

async function close(): Promise<void> {
  if (!server.listening) return;
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
}

/** With a time limit that no answer of this machine's exceeds, unless it is left out. */
function batchEndpoint(timeoutMs = 20_000): BatchEndpoint {
  const { port } = server.address() as AddressInfo;
  return { send: (path, init) => fetch(`http://127.0.0.1:${port}${path}`, init), secret, timeoutMs };
}

const respond =
  (status: number, body: unknown, headers: Record<string, string> = {}): Handler =>
  (response) =>
    response.writeHead(status, headers).end(typeof body === "string" ? body : JSON.stringify(body));
const acknowledgement = (status: unknown) => ({ object: "batch.attempt", id, attempt: 2, status });

function submitWith(nextHandler: Handler, timeoutMs?: number) {
  handler = nextHandler;
  return submitAttempt(batchEndpoint(timeoutMs), sampleSubmission);
}

function stopWith(nextHandler: Handler, timeoutMs?: number) {
  handler = nextHandler;
  return stopAttempt(batchEndpoint(timeoutMs), sampleStop);
}

const neverRespond: Handler = () => undefined;
const hangInBody: Handler = (response) => response.writeHead(202).write('{"object":');
const resetConnection: Handler = (response) => response.socket?.resetAndDestroy();
const resetInBody: Handler = (response) => {
  response.writeHead(202, { "content-length": "1000" });
  response.write("{", () => response.socket?.resetAndDestroy());
};

const invalidAnswer = { type: "unanswered", reason: "its answer is not as agreed.", retryAfter: null };
const unreachable = { type: "unanswered", reason: "it cannot be reached.", retryAfter: null };
const timedOut = { type: "unanswered", reason: "no answer in time.", retryAfter: null };

describe("a submission", () => {
  it("is put at its attempt's path, signed anew each time it is sent", async () => {
    await submitWith(respond(202, acknowledgement("running")));
    await submitWith(respond(202, acknowledgement("running")));
    const ids = calls.map(({ body, headers }) => verify([secret], body, headers));
    expect(ids).toEqual([expect.stringMatching(/^msg_[0-9a-f]{32}$/), expect.stringMatching(/^msg_[0-9a-f]{32}$/)]);
    expect(new Set(ids).size).toBe(2);
    for (const { method, url, headers, body } of calls) {
      expect([method, url]).toEqual(["PUT", `/v1/jobs/${id}/attempts/2`]);
      expect(headers.get("content-type")).toBe("application/json");
      expect(submission.parse(JSON.parse(body))).toEqual(sampleSubmission);
    }
  });

  it.each([
    ["running", 202, "accepted"],
    ["running", 200, "accepted"],
    ["stopping", 202, "ended"],
    ["ended", 200, "ended"],
  ])("acknowledged as %s with %i is %s", async (status, code, type) => {
    expect(await submitWith(respond(code, acknowledgement(status)))).toEqual(
      type === "ended" ? { type, endpointRestarted: false } : { type },
    );
  });

  it("may be acknowledged with more than was agreed", async () => {
    expect(await submitWith(respond(202, { ...acknowledgement("running"), machine: 7 }))).toEqual({ type: "accepted" });
  });

  it.each([
    ["nothing", ""],
    ["no JSON", "<html>It works!</html>"],
    ["half of it", JSON.stringify(acknowledgement("running")).slice(0, -2)],
    ["null", "null"],
    ["another object", { status: "ok", running: 0, capacity: 1 }],
    ["another status", acknowledgement("done")],
    ["a body longer than is read", `${JSON.stringify(acknowledgement("running"))}${" ".repeat(20_000)}x`],
  ])("answered 202 with %s was not taken", async (_, body) => {
    expect(await submitWith(respond(202, body))).toEqual(invalidAnswer);
  });

  it.each([201, 204, 304, 400, 401, 403, 404, 409, 413, 500, 502, 503, 504])(
    "answered %i was not taken",
    async (code) => {
      const reason = `it answered ${code}.`;
      expect(await submitWith(respond(code, ""))).toEqual({ type: "unanswered", reason, retryAfter: null });
      expect(await submitWith(respond(code, "", { "retry-after": "30" }))).toMatchObject({
        reason,
        retryAfter: 30_000,
      });
    },
  );

  it("answered 429 is to be sent again when the endpoint says", async () => {
    expect(await submitWith(respond(429, ""))).toEqual({ type: "busy", retryAfter: null });
    expect(await submitWith(respond(429, "", { "retry-after": "7" }))).toEqual({ type: "busy", retryAfter: 7_000 });
    const date = new Date(Date.now() + 60_000).toUTCString();
    const outcome = await submitWith(respond(429, "", { "retry-after": date }));
    expect(outcome.type).toBe("busy");
    const { retryAfter } = outcome as { retryAfter: number };
    expect(retryAfter).toBeGreaterThan(0);
    expect(retryAfter).toBeLessThanOrEqual(60_000);
  });

  it.each([
    ["why", { error: { message: "no such backbone." } }, "no such backbone."],
    ["at length", { error: { message: "x".repeat(2_000) } }, "x".repeat(500)],
    ["nothing", "", "it did not say why."],
    ["no JSON", "<html>", "it did not say why."],
    ["no text", { error: { message: { en: "no" } } }, "it did not say why."],
    ["null", { error: null }, "it did not say why."],
    ["no object", "[]", "it did not say why."],
  ])("answered 422 is refused for good: says %s", async (_, body, reason) => {
    const message = `The batch endpoint refused the job: ${reason}`;
    expect(await submitWith(respond(422, body))).toEqual({ type: "rejected", message });
  });

  it.each([301, 302, 307, 308])("does not follow a redirect: %i", async (code) => {
    const { port } = server.address() as AddressInfo;
    const outcome = await submitWith(respond(code, "", { location: `http://127.0.0.1:${port}/elsewhere` }));
    expect(outcome).toEqual({ type: "unanswered", reason: `it answered ${code}.`, retryAfter: null });
    expect(calls.map(({ url }) => url)).toEqual([`/v1/jobs/${id}/attempts/2`]);
  });

  it.each([202, 422, 500])("reads the beginning of an endless answer alone: %i", async (code) => {
    const { promise: disconnected, resolve } = Promise.withResolvers<void>();
    const outcome = await submitWith((response) => {
      response.on("close", resolve);
      response.writeHead(code);
      const chunk = "x".repeat(1_000);
      const writeMore = () => {
        while (!response.destroyed && response.write(chunk));
      };
      response.on("drain", writeMore);
      writeMore();
    });
    expect(outcome.type).toBe(code === 422 ? "rejected" : "unanswered");
    // The connection is given up, rather than read to an end that never comes.
    await disconnected;
  });

  it("waits no longer than its time limit for an answer, or for the end of one", async () => {
    expect(await submitWith(neverRespond, 100)).toEqual(timedOut);
    expect(await submitWith(hangInBody, 100)).toEqual(timedOut);
  });

  it("was not taken where the connection is refused, or breaks", async () => {
    expect(await submitWith(resetConnection)).toEqual(unreachable);
    expect(await submitWith(resetInBody)).toEqual(unreachable);
    const closedEndpoint = batchEndpoint();
    await close();
    expect(await submitAttempt(closedEndpoint, sampleSubmission)).toEqual(unreachable);
  });
});

describe("a stop", () => {
  it("is posted below its attempt's path, signed", async () => {
    expect(await stopWith(respond(200, acknowledgement("ended")))).toBe("ended");
    const [{ method, url, headers, body }] = calls as [Call];
    expect([method, url]).toEqual(["POST", `/v1/jobs/${id}/attempts/2/stop`]);
    expect(verify([secret], body, headers)).toMatch(/^msg_/);
    expect(stop.parse(JSON.parse(body))).toEqual(sampleStop);
  });

  it.each(["running", "stopping"])("has not ended the attempt where the answer is %s", async (status) => {
    expect(await stopWith(respond(202, acknowledgement(status)))).toBe("stopping");
    expect(calls).toHaveLength(1);
  });

  it("tells that the attempt ran in an earlier process of the endpoint", async () => {
    const answer = { ...acknowledgement("ended"), endpoint_restarted: true };
    expect(await stopWith(respond(200, answer))).toBe("endpoint_lost");
  });

  it.each([
    ["an error that says ended", respond(500, acknowledgement("ended"))],
    ["not found", respond(404, "")],
    ["busy", respond(429, "")],
    ["a redirect", respond(307, "", { location: "/elsewhere" })],
    ["no JSON", respond(200, "ended")],
    ["nothing", respond(200, "")],
    ["a reset", resetConnection],
    ["half an answer", resetInBody],
  ])("is unanswered where the answer is %s", async (_, nextHandler) => {
    expect(await stopWith(nextHandler)).toBe("unanswered");
    expect(calls).toHaveLength(1);
  });

  it("waits no longer than its time limit, and is unanswered where nobody is there", async () => {
    expect(await stopWith(neverRespond, 100)).toBe("unanswered");
    expect(await stopWith(hangInBody, 100)).toBe("unanswered");
    const closedEndpoint = batchEndpoint();
    await close();
    expect(await stopAttempt(closedEndpoint, sampleStop)).toBe("unanswered");
  });
});

describe("Retry-After", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  it.each([
    ["seconds", "120", 120_000],
    ["no time at all", "0", 0],
    ["spaces around it", " 5 ", 5_000],
    ["a date", "Thu, 01 Jan 2026 00:00:07 GMT", 7_000],
    ["a date of the old form", "Thursday, 01-Jan-26 00:00:07 GMT", 7_000],
    ["a date gone by", "Wed, 31 Dec 2025 23:59:59 GMT", 0],
    ["nothing", "", null],
    ["a word", "soon", null],
    ["less than nothing", "-5", null],
    ["a fraction", "1.5", null],
    ["two values", "5, 10", null],
    ["more seconds than anyone waits", "9999999999", null],
    ["a day of no calendar", "Thu, 32 Jan 2026 00:00:07 GMT", null],
  ])("of %s", (_, header, milliseconds) => {
    expect(parseRetryAfter(header, now)).toBe(milliseconds);
  });

  it("may be missing", () => {
    expect(parseRetryAfter(null, now)).toBeNull();
  });
});
