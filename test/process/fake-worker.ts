/** The Worker as a batch endpoint meets it: a real HTTP server that holds to src/jobs/protocol.ts, and misbehaves when told to. */
import { createHash, randomUUID } from "node:crypto";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import { type Context, Hono } from "hono";
import {
  type Artifact,
  completion,
  type Directive,
  directive,
  type Message,
  message,
  type Submission,
  submission,
} from "../../src/jobs/protocol.ts";
import { sign, verify } from "../../src/jobs/sign.ts";

export type AttemptMessage = Message & { readonly id: string; readonly attempt: number };
export interface DataRow {
  readonly text?: string;
  readonly embedding?: string;
  readonly target: string | readonly string[] | number;
  readonly group: string;
  readonly held_out: boolean;
}

/** One call that a batch endpoint made; `told` where it is a message. */
export interface Call {
  readonly method: string;
  /** Below the attempt, such as `data`. */
  readonly path: string;
  readonly message: AttemptMessage | null;
}

export interface FakeWorker {
  readonly url: string;
  /** What was heard, in order. */
  readonly receivedMessages: AttemptMessage[];
  readonly calls: Call[];
  readonly artifacts: Map<string, Buffer>;
  /** What no batch endpoint should have done. */
  readonly violations: string[];
  /** Takes the place of the answer to a call, where it gives one. */
  intercept: (call: Call, c: Context) => Response | Promise<Response> | null;
  /** What a message is answered with. */
  getDirective: (message: AttemptMessage) => Partial<Directive>;
  partBytes: number;
  /** Makes an attempt at a job known, with its data. */
  addJob(submission: Submission, lines: readonly DataRow[]): Submission;
  /** Waits until a message is heard that fits, which may have been before. */
  waitForMessage<T extends AttemptMessage["type"]>(
    type: T,
    id: string,
    attempt?: number,
  ): Promise<Extract<AttemptMessage, { type: T }>>;
  /** An attempt's messages in order. One that was sent again, because its answer took too long, is there once. */
  messages(id: string, attempt?: number): AttemptMessage[];
  close(): Promise<void>;
}

export const secret = `whsec_${Buffer.from("a secret of twenty-four b").toString("base64")}`;

export async function startFakeWorker(): Promise<FakeWorker> {
  const app = new Hono();
  const jobs = new Map<string, { readonly submission: Submission; readonly lines: readonly DataRow[] }>();
  const uploads = new Map<string, { readonly bytes: number; readonly parts: Buffer[] }>();
  const ids = new Set<string>();
  let arrived = Promise.withResolvers<void>();
  const server = createAdaptorServer({ fetch: app.fetch });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const worker: FakeWorker = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    receivedMessages: [],
    calls: [],
    artifacts: new Map(),
    violations: [],
    intercept: () => null,
    getDirective: () => ({}),
    partBytes: 1000,
    addJob(job, lines) {
      const parsedJob = submission.parse(job);
      jobs.set(`${parsedJob.id}/${parsedJob.attempt}`, { submission: parsedJob, lines });
      return parsedJob;
    },
    async waitForMessage(type, id, attempt = 1) {
      for (;;) {
        const match = worker.messages(id, attempt).find((message) => message.type === type);
        if (match !== undefined) return match as never;
        await arrived.promise;
      }
    },
    messages(id, attempt = 1) {
      const bodies = new Set<string>();
      return worker.receivedMessages.filter((message) => {
        if (message.id !== id || message.attempt !== attempt) return false;
        const body = JSON.stringify(message);
        if (bodies.has(body) && message.type !== "heartbeat") return false;
        bodies.add(body);
        return true;
      });
    },
    async close() {
      server.close();
      if ("closeAllConnections" in server) server.closeAllConnections();
      await once(server, "close");
    },
  };
  const addViolation = (what: string) => void worker.violations.push(what);

  app.use("/internal/batch/jobs/:id/attempts/:attempt/*", async (c, next) => {
    const { id, attempt } = c.req.param();
    const job = jobs.get(`${id}/${attempt}`);
    const path = c.req.path.split("/").slice(7).join("/");
    const attemptMessage = path === "messages" ? parseMessage(c, await c.req.text(), addViolation, ids) : null;
    const call: Call = { method: c.req.method, path, message: attemptMessage };
    worker.calls.push(call);
    const replacement = worker.intercept(call, c);
    if (replacement !== null) return replacement;
    if (job === undefined) return c.json({}, 404);
    if (c.req.header("authorization") !== `Bearer ${job.submission.token}`) {
      addViolation(`${path} without the token of ${id}/${attempt}`);
      return c.json({}, 401);
    }
    return next();
  });
  const attemptPath = "/internal/batch/jobs/:id/attempts/:attempt";
  app.post(`${attemptPath}/messages`, async (c) => {
    const attemptMessage = message.parse(JSON.parse(await c.req.text())) as AttemptMessage;
    const earlierProgress = worker
      .messages(attemptMessage.id, attemptMessage.attempt)
      .filter((earlier) => earlier.type === "progress");
    if (attemptMessage.type === "progress" && (earlierProgress.at(-1)?.step ?? -1) > attemptMessage.step)
      addViolation("a step that does not rise");
    worker.receivedMessages.push(attemptMessage);
    arrived.resolve();
    arrived = Promise.withResolvers();
    const refit = attemptMessage.type === "evaluated" ? "fine_tuned" : null;
    const answer = { object: "batch.directive", directive: "continue", refit, ...worker.getDirective(attemptMessage) };
    return c.json(directive.parse(answer));
  });
  app.get(`${attemptPath}/data`, (c) => {
    const job = jobs.get(`${c.req.param("id")}/${c.req.param("attempt")}`);
    return c.body(ndjson(job?.lines ?? []));
  });
  app.get(`${attemptPath}/artifacts/:sha256`, (c) => {
    const bytes = worker.artifacts.get(c.req.param("sha256"));
    return bytes === undefined ? c.json({}, 404) : c.body(new Uint8Array(bytes));
  });
  const store = (c: Context, sha256: string, bytes: Buffer) => {
    if (sha256Hex(bytes) !== sha256) return c.json({ error: { message: "other bytes" } }, 422);
    worker.artifacts.set(sha256, bytes);
    return c.json({ sha256, bytes: bytes.length } satisfies Artifact);
  };
  app.put(`${attemptPath}/artifacts/:sha256`, async (c) => {
    const bytes = Buffer.from(await c.req.arrayBuffer());
    if (c.req.header("content-length") !== String(bytes.length)) addViolation("an artifact without its length");
    return store(c, c.req.param("sha256"), bytes);
  });
  app.post(`${attemptPath}/artifacts/:sha256/uploads`, async (c) => {
    const { bytes } = (await c.req.json()) as { bytes: number };
    const id = randomUUID();
    uploads.set(id, { bytes, parts: [] });
    return c.json({ object: "batch.upload", upload_id: id, part_bytes: worker.partBytes });
  });
  app.put(`${attemptPath}/artifacts/:sha256/uploads/:upload/:part`, async (c) => {
    const upload = uploads.get(c.req.param("upload"));
    const part = Number(c.req.param("part"));
    const bytes = Buffer.from(await c.req.arrayBuffer());
    const expectedBytes = Math.min(worker.partBytes, (upload?.bytes ?? 0) - (part - 1) * worker.partBytes);
    if (bytes.length !== expectedBytes) addViolation(`part ${part} has ${bytes.length} bytes, not ${expectedBytes}`);
    if (upload) upload.parts[part - 1] = bytes;
    return c.json({ part, etag: sha256Hex(bytes) });
  });
  app.post(`${attemptPath}/artifacts/:sha256/uploads/:upload`, async (c) => {
    const upload = uploads.get(c.req.param("upload"));
    const { parts } = completion.parse(await c.req.json());
    const completedParts = parts.map(({ part, etag }) => [part, etag]);
    const storedParts = (upload?.parts ?? []).map((bytes, i) => [i + 1, sha256Hex(bytes)]);
    if (JSON.stringify(completedParts) !== JSON.stringify(storedParts)) addViolation("a completion of other parts");
    return store(c, c.req.param("sha256"), Buffer.concat(upload?.parts ?? []));
  });
  return worker;
}

function parseMessage(
  c: Context,
  body: string,
  addViolation: (what: string) => void,
  ids: Set<string>,
): AttemptMessage | null {
  const id = verify([secret], body, c.req.raw.headers);
  if (id === null) addViolation("a message that is not signed");
  else if (ids.has(id)) addViolation("an id that was used before");
  ids.add(id ?? "");
  const parsed = message.safeParse(JSON.parse(body));
  if (!parsed.success) addViolation(`no message: ${parsed.error.message}`);
  return parsed.success ? (parsed.data as AttemptMessage) : null;
}

/** Data as the Worker sends them. */
export function ndjson(lines: readonly DataRow[]): string {
  const end = { end: true, rows: lines.length, revision: 7 };
  return [...lines, end].map((line) => `${JSON.stringify(line)}\n`).join("");
}

export function sha256Hex(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Calls a batch endpoint as the Worker does. */
export function sendSigned(
  url: string,
  method: "PUT" | "POST",
  path: string,
  content: unknown,
  {
    signingSecret = secret,
    id = `msg_${randomUUID()}`,
    now = Date.now(),
  }: { signingSecret?: string; id?: string; now?: number } = {},
): Promise<Response> {
  const body = JSON.stringify(content);
  const headers = { "content-type": "application/json", ...sign(signingSecret, body, id, now) };
  return fetch(url + path, { method, headers, body });
}

export function submit(url: string, submission: Submission): Promise<Response> {
  return sendSigned(url, "PUT", `/v1/jobs/${submission.id}/attempts/${submission.attempt}`, submission);
}

export function stop(url: string, { id, attempt }: Submission, action: "cancel" | "pause"): Promise<Response> {
  const body = { object: "batch.stop", id, attempt, action };
  return sendSigned(url, "POST", `/v1/jobs/${id}/attempts/${attempt}/stop`, body);
}

/** Never answers the calls that a predicate holds for. */
export function neverRespond(worker: FakeWorker, matches: (path: string) => boolean): void {
  worker.intercept = ({ path }) => (matches(path) ? new Promise<Response>(() => undefined) : null);
}

/** What was told of an attempt's progress, or that part of it which begins so. */
export function progressMessages(messages: readonly AttemptMessage[], start = ""): string[] {
  return messages.flatMap((message) =>
    message.type === "progress" && message.message.startsWith(start) ? [message.message] : [],
  );
}
