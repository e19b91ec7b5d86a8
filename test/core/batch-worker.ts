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

export type Told = Message & { readonly id: string; readonly attempt: number };
export interface Line {
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
  readonly told: Told | null;
}

export interface FakeWorker {
  readonly url: string;
  /** What was heard, in order. */
  readonly heard: Told[];
  readonly calls: Call[];
  readonly artifacts: Map<string, Buffer>;
  /** What no batch endpoint should have done. */
  readonly violations: string[];
  /** Takes the place of the answer to a call, where it gives one. */
  meddle: (call: Call, c: Context) => Response | Promise<Response> | null;
  /** What a message is answered with. */
  direct: (told: Told) => Partial<Directive>;
  partBytes: number;
  /** Makes an attempt at a job known, with its data. */
  offer(submission: Submission, lines: readonly Line[]): Submission;
  /** Waits until a message is heard that fits, which may have been before. */
  until<T extends Told["type"]>(type: T, id: string, attempt?: number): Promise<Extract<Told, { type: T }>>;
  messages(id: string, attempt?: number): Told[];
  close(): Promise<void>;
}

export const secret = `whsec_${Buffer.from("a secret of twenty-four b").toString("base64")}`;

export async function startFakeWorker(): Promise<FakeWorker> {
  const app = new Hono();
  const jobs = new Map<string, { readonly submission: Submission; readonly lines: readonly Line[] }>();
  const uploads = new Map<string, { readonly bytes: number; readonly parts: Buffer[] }>();
  const ids = new Set<string>();
  let arrived = Promise.withResolvers<void>();
  const server = createAdaptorServer({ fetch: app.fetch });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const worker: FakeWorker = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    heard: [],
    calls: [],
    artifacts: new Map(),
    violations: [],
    meddle: () => null,
    direct: () => ({}),
    partBytes: 1000,
    offer(given, lines) {
      const whole = submission.parse(given);
      jobs.set(`${whole.id}/${whole.attempt}`, { submission: whole, lines });
      return whole;
    },
    async until(type, id, attempt = 1) {
      for (;;) {
        const found = worker.messages(id, attempt).find((told) => told.type === type);
        if (found !== undefined) return found as never;
        await arrived.promise;
      }
    },
    messages: (id, attempt = 1) => worker.heard.filter((told) => told.id === id && told.attempt === attempt),
    async close() {
      server.close();
      if ("closeAllConnections" in server) server.closeAllConnections();
      await once(server, "close");
    },
  };
  const violated = (what: string) => void worker.violations.push(what);

  app.use("/internal/batch/jobs/:id/attempts/:attempt/*", async (c, next) => {
    const { id, attempt } = c.req.param();
    const job = jobs.get(`${id}/${attempt}`);
    const path = c.req.path.split("/").slice(7).join("/");
    const told = path === "messages" ? readMessage(c, await c.req.text(), violated, ids) : null;
    const call: Call = { method: c.req.method, path, told };
    worker.calls.push(call);
    const instead = worker.meddle(call, c);
    if (instead !== null) return instead;
    if (job === undefined) return c.json({}, 404);
    if (c.req.header("authorization") !== `Bearer ${job.submission.token}`) {
      violated(`${path} without the token of ${id}/${attempt}`);
      return c.json({}, 401);
    }
    return next();
  });
  const at = "/internal/batch/jobs/:id/attempts/:attempt";
  app.post(`${at}/messages`, async (c) => {
    const told = message.parse(JSON.parse(await c.req.text())) as Told;
    const before = worker.messages(told.id, told.attempt).filter((each) => each.type === "progress");
    if (told.type === "progress" && (before.at(-1)?.step ?? -1) > told.step) violated("a step that does not rise");
    worker.heard.push(told);
    arrived.resolve();
    arrived = Promise.withResolvers();
    const refit = told.type === "evaluated" ? "fine_tuned" : null;
    const answer = { object: "batch.directive", directive: "continue", refit, ...worker.direct(told) };
    return c.json(directive.parse(answer));
  });
  app.get(`${at}/data`, (c) => {
    const job = jobs.get(`${c.req.param("id")}/${c.req.param("attempt")}`);
    return c.body(ndjson(job?.lines ?? []));
  });
  app.get(`${at}/artifacts/:sha256`, (c) => {
    const bytes = worker.artifacts.get(c.req.param("sha256"));
    return bytes === undefined ? c.json({}, 404) : c.body(new Uint8Array(bytes));
  });
  const store = (c: Context, sha256: string, bytes: Buffer) => {
    if (sha256Of(bytes) !== sha256) return c.json({ error: { message: "other bytes" } }, 422);
    worker.artifacts.set(sha256, bytes);
    return c.json({ sha256, bytes: bytes.length } satisfies Artifact);
  };
  app.put(`${at}/artifacts/:sha256`, async (c) => {
    const bytes = Buffer.from(await c.req.arrayBuffer());
    if (c.req.header("content-length") !== String(bytes.length)) violated("an artifact without its length");
    return store(c, c.req.param("sha256"), bytes);
  });
  app.post(`${at}/artifacts/:sha256/uploads`, async (c) => {
    const { bytes } = (await c.req.json()) as { bytes: number };
    const id = randomUUID();
    uploads.set(id, { bytes, parts: [] });
    return c.json({ object: "batch.upload", upload_id: id, part_bytes: worker.partBytes });
  });
  app.put(`${at}/artifacts/:sha256/uploads/:upload/:part`, async (c) => {
    const upload = uploads.get(c.req.param("upload"));
    const part = Number(c.req.param("part"));
    const bytes = Buffer.from(await c.req.arrayBuffer());
    const wanted = Math.min(worker.partBytes, (upload?.bytes ?? 0) - (part - 1) * worker.partBytes);
    if (bytes.length !== wanted) violated(`part ${part} has ${bytes.length} bytes, not ${wanted}`);
    if (upload) upload.parts[part - 1] = bytes;
    return c.json({ part, etag: sha256Of(bytes) });
  });
  app.post(`${at}/artifacts/:sha256/uploads/:upload`, async (c) => {
    const upload = uploads.get(c.req.param("upload"));
    const { parts } = completion.parse(await c.req.json());
    const given = parts.map(({ part, etag }) => [part, etag]);
    const held = (upload?.parts ?? []).map((bytes, i) => [i + 1, sha256Of(bytes)]);
    if (JSON.stringify(given) !== JSON.stringify(held)) violated("a completion of other parts");
    return store(c, c.req.param("sha256"), Buffer.concat(upload?.parts ?? []));
  });
  return worker;
}

function readMessage(c: Context, body: string, violated: (what: string) => void, ids: Set<string>): Told | null {
  const id = verify([secret], body, c.req.raw.headers);
  if (id === null) violated("a message that is not signed");
  else if (ids.has(id)) violated("an id that was used before");
  ids.add(id ?? "");
  const parsed = message.safeParse(JSON.parse(body));
  if (!parsed.success) violated(`no message: ${parsed.error.message}`);
  return parsed.success ? (parsed.data as Told) : null;
}

/** Data as the Worker sends them. */
export function ndjson(lines: readonly Line[]): string {
  const end = { end: true, rows: lines.length, revision: 7 };
  return [...lines, end].map((line) => `${JSON.stringify(line)}\n`).join("");
}

export function sha256Of(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Calls a batch endpoint as the Worker does. */
export function call(
  url: string,
  method: "PUT" | "POST",
  path: string,
  content: unknown,
  { by = secret, id = `msg_${randomUUID()}`, now = Date.now() }: { by?: string; id?: string; now?: number } = {},
): Promise<Response> {
  const body = JSON.stringify(content);
  const headers = { "content-type": "application/json", ...sign(by, body, id, now) };
  return fetch(url + path, { method, headers, body });
}

export function submit(url: string, given: Submission): Promise<Response> {
  return call(url, "PUT", `/v1/jobs/${given.id}/attempts/${given.attempt}`, given);
}

export function stop(url: string, { id, attempt }: Submission, action: "cancel" | "pause"): Promise<Response> {
  const body = { object: "batch.stop", id, attempt, action };
  return call(url, "POST", `/v1/jobs/${id}/attempts/${attempt}/stop`, body);
}

/** Never answers the calls that a predicate holds for. */
export function hang(worker: FakeWorker, holds: (path: string) => boolean): void {
  worker.meddle = ({ path }) => (holds(path) ? new Promise<Response>(() => undefined) : null);
}

/** What was told of an attempt's progress, or that part of it which begins so. */
export function progressOf(told: readonly Told[], start = ""): string[] {
  return told.flatMap((each) => (each.type === "progress" && each.message.startsWith(start) ? [each.message] : []));
}
