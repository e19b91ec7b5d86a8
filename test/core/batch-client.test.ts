/** The batch endpoint as the Worker calls it, against a server that answers anything. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { parseRetryAfter } from "../../src/lib/retry-after.ts";
import { type BatchEndpoint, stopAttempt, submitAttempt } from "../../src/jobs/client.ts";
import { type Stop, type Submission, stop, submission } from "../../src/jobs/protocol.ts";
import { verify } from "../../src/jobs/sign.ts";

const secret = `whsec_${Buffer.from("a secret of 24 bytes ...").toString("base64")}`;
const id = `ftjob-${"0123456789abcdef".repeat(2)}`;
const asked: Submission = {
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
const stopping: Stop = { object: "batch.stop", id, attempt: 2, action: "pause" };

interface Call {
  readonly method: string | undefined;
  readonly url: string | undefined;
  readonly headers: Headers;
  readonly body: string;
}
type Answer = (response: ServerResponse) => void;

let server: Server;
let calls: Call[];
let answer: Answer;
beforeEach(async () => {
  calls = [];
  server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const headers = new Headers(request.headers as Record<string, string>);
      calls.push({ method: request.method, url: request.url, headers, body: Buffer.concat(chunks).toString() });
      answer(response);
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
function endpoint(timeoutMs = 20_000): BatchEndpoint {
  const { port } = server.address() as AddressInfo;
  return { send: (path, init) => fetch(`http://127.0.0.1:${port}${path}`, init), secret, timeoutMs };
}

const says =
  (status: number, body: unknown, headers: Record<string, string> = {}): Answer =>
  (response) =>
    response.writeHead(status, headers).end(typeof body === "string" ? body : JSON.stringify(body));
const acknowledged = (status: unknown) => ({ object: "batch.attempt", id, attempt: 2, status });

function submitted(how: Answer, timeoutMs?: number) {
  answer = how;
  return submitAttempt(endpoint(timeoutMs), asked);
}

function stopped(how: Answer, timeoutMs?: number) {
  answer = how;
  return stopAttempt(endpoint(timeoutMs), stopping);
}

const hangs: Answer = () => undefined;
const hangsInBody: Answer = (response) => response.writeHead(202).write('{"object":');
const resets: Answer = (response) => response.socket?.resetAndDestroy();
const resetsInBody: Answer = (response) => {
  response.writeHead(202, { "content-length": "1000" });
  response.write("{", () => response.socket?.resetAndDestroy());
};

const notAsAgreed = { type: "unanswered", reason: "its answer is not as agreed.", retryAfter: null };
const unreachable = { type: "unanswered", reason: "it cannot be reached.", retryAfter: null };
const late = { type: "unanswered", reason: "no answer in time.", retryAfter: null };

describe("a submission", () => {
  it("is put at its attempt's path, signed anew each time it is sent", async () => {
    await submitted(says(202, acknowledged("running")));
    await submitted(says(202, acknowledged("running")));
    const ids = calls.map(({ body, headers }) => verify([secret], body, headers));
    expect(ids).toEqual([expect.stringMatching(/^msg_[0-9a-f]{32}$/), expect.stringMatching(/^msg_[0-9a-f]{32}$/)]);
    expect(new Set(ids).size).toBe(2);
    for (const { method, url, headers, body } of calls) {
      expect([method, url]).toEqual(["PUT", `/v1/jobs/${id}/attempts/2`]);
      expect(headers.get("content-type")).toBe("application/json");
      expect(submission.parse(JSON.parse(body))).toEqual(asked);
    }
  });

  it.each([
    ["running", 202, "accepted"],
    ["running", 200, "accepted"],
    ["stopping", 202, "ended"],
    ["ended", 200, "ended"],
  ])("acknowledged as %s with %i is %s", async (status, code, type) => {
    expect(await submitted(says(code, acknowledged(status)))).toEqual({ type });
  });

  it("may be acknowledged with more than was agreed", async () => {
    expect(await submitted(says(202, { ...acknowledged("running"), machine: 7 }))).toEqual({ type: "accepted" });
  });

  it.each([
    ["nothing", ""],
    ["no JSON", "<html>It works!</html>"],
    ["half of it", JSON.stringify(acknowledged("running")).slice(0, -2)],
    ["null", "null"],
    ["another object", { status: "ok", running: 0, capacity: 1 }],
    ["another status", acknowledged("done")],
    ["a body longer than is read", `${JSON.stringify(acknowledged("running"))}${" ".repeat(20_000)}x`],
  ])("answered 202 with %s was not taken", async (_, body) => {
    expect(await submitted(says(202, body))).toEqual(notAsAgreed);
  });

  it.each([201, 204, 304, 400, 401, 403, 404, 409, 413, 500, 502, 503, 504])(
    "answered %i was not taken",
    async (code) => {
      const reason = `it answered ${code}.`;
      expect(await submitted(says(code, ""))).toEqual({ type: "unanswered", reason, retryAfter: null });
      expect(await submitted(says(code, "", { "retry-after": "30" }))).toMatchObject({ reason, retryAfter: 30_000 });
    },
  );

  it("answered 429 is to be sent again when the endpoint says", async () => {
    expect(await submitted(says(429, ""))).toEqual({ type: "busy", retryAfter: null });
    expect(await submitted(says(429, "", { "retry-after": "7" }))).toEqual({ type: "busy", retryAfter: 7_000 });
    const date = new Date(Date.now() + 60_000).toUTCString();
    const outcome = await submitted(says(429, "", { "retry-after": date }));
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
  ])("answered 422 is refused for good: says %s", async (_, body, why) => {
    const message = `The batch endpoint refused the job: ${why}`;
    expect(await submitted(says(422, body))).toEqual({ type: "rejected", message });
  });

  it.each([301, 302, 307, 308])("does not follow a redirect: %i", async (code) => {
    const { port } = server.address() as AddressInfo;
    const outcome = await submitted(says(code, "", { location: `http://127.0.0.1:${port}/elsewhere` }));
    expect(outcome).toEqual({ type: "unanswered", reason: `it answered ${code}.`, retryAfter: null });
    expect(calls.map(({ url }) => url)).toEqual([`/v1/jobs/${id}/attempts/2`]);
  });

  it.each([202, 422, 500])("reads the beginning of an endless answer alone: %i", async (code) => {
    const { promise: left, resolve } = Promise.withResolvers<void>();
    const outcome = await submitted((response) => {
      response.on("close", resolve);
      response.writeHead(code);
      const chunk = "x".repeat(1_000);
      const more = () => {
        while (!response.destroyed && response.write(chunk));
      };
      response.on("drain", more);
      more();
    });
    expect(outcome.type).toBe(code === 422 ? "rejected" : "unanswered");
    // The connection is given up, rather than read to an end that never comes.
    await left;
  });

  it("waits no longer than its time limit for an answer, or for the end of one", async () => {
    expect(await submitted(hangs, 100)).toEqual(late);
    expect(await submitted(hangsInBody, 100)).toEqual(late);
  });

  it("was not taken where the connection is refused, or breaks", async () => {
    expect(await submitted(resets)).toEqual(unreachable);
    expect(await submitted(resetsInBody)).toEqual(unreachable);
    const gone = endpoint();
    await close();
    expect(await submitAttempt(gone, asked)).toEqual(unreachable);
  });
});

describe("a stop", () => {
  it("is posted below its attempt's path, signed", async () => {
    expect(await stopped(says(200, acknowledged("ended")))).toBe(true);
    const [{ method, url, headers, body }] = calls as [Call];
    expect([method, url]).toEqual(["POST", `/v1/jobs/${id}/attempts/2/stop`]);
    expect(verify([secret], body, headers)).toMatch(/^msg_/);
    expect(stop.parse(JSON.parse(body))).toEqual(stopping);
  });

  it.each([
    ["running", says(202, acknowledged("running"))],
    ["stopping", says(202, acknowledged("stopping"))],
    ["an error that says ended", says(500, acknowledged("ended"))],
    ["not found", says(404, "")],
    ["busy", says(429, "")],
    ["a redirect", says(307, "", { location: "/elsewhere" })],
    ["no JSON", says(200, "ended")],
    ["nothing", says(200, "")],
    ["a reset", resets],
    ["half an answer", resetsInBody],
  ])("has not ended the attempt where the answer is %s", async (_, how) => {
    expect(await stopped(how)).toBe(false);
    expect(calls).toHaveLength(1);
  });

  it("waits no longer than its time limit, and tells nothing where nobody is there", async () => {
    expect(await stopped(hangs, 100)).toBe(false);
    expect(await stopped(hangsInBody, 100)).toBe(false);
    const gone = endpoint();
    await close();
    expect(await stopAttempt(gone, stopping)).toBe(false);
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
