/** The batch endpoint as HTTP: what the Worker asks of it. */
import { type Context, Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import type { z } from "zod";
import type { Backbone } from "../../backbones/backbone.ts";
import { type acknowledgement, type health, type Submission, stop, submission } from "../../jobs/protocol.ts";
import { TOLERANCE_SECONDS, verify } from "../../jobs/sign.ts";
import type { Attempts } from "./supervisor.ts";
import { makeLine } from "./fair-queue.ts";
import { framesOf, type Log } from "../log.ts";

const BODY_BYTES = 256 * 1024;
const MOST_IDS = 100_000;

interface Endpoint {
  readonly secrets: readonly string[];
  readonly capacity: number;
  readonly backbones: ReadonlyMap<string, Backbone>;
  readonly attempts: Attempts;
  /** Whether no attempt is taken any more. */
  readonly stopping: () => boolean;
  readonly log: Log;
}

export function batchApp({ secrets, capacity, backbones, attempts, stopping, log }: Endpoint): Hono {
  const app = new Hono();
  const line = makeLine();
  const seen = makeSeen();

  const refuse = (c: Context, status: ContentfulStatusCode, code: string, message: string, retryAfter?: number) => {
    if (retryAfter !== undefined) c.header("retry-after", String(retryAfter));
    // Those that wait for a place ask every other second.
    if (status !== 429) log("answered", { path: c.req.path, status, code });
    return c.json({ error: { message, code } }, status);
  };

  /** The body that a known secret signed and a schema accepts, for the attempt that the path names; else the refusal. */
  const read = async <T extends { id: string; attempt: number }>(c: Context, schema: z.ZodType<T>) => {
    const text = await c.req.text();
    const id = verify(secrets, text, c.req.raw.headers);
    if (id === null) return refuse(c, 401, "invalid_signature", "The signature is not valid, or not of now.");
    const known = seen.note(id, Date.now());
    if (known === "replayed") return refuse(c, 409, "replayed", "This message was received before.");
    if (known === "full") return refuse(c, 503, "too_many_messages", "Too many messages in too short a time.", 30);
    const parsed = schema.safeParse(parseJson(text));
    if (!parsed.success) {
      const issue = parsed.error.issues[0];
      return refuse(c, 422, "invalid_body", `The body is not as agreed: '${issue?.path.join(".")}' ${issue?.message}.`);
    }
    const { id: job, attempt } = parsed.data;
    if (c.req.param("id") !== job || c.req.param("attempt") !== String(attempt))
      return refuse(c, 422, "invalid_path", "The path names another attempt than the body.");
    return parsed.data;
  };

  const acknowledge = (
    c: Context,
    { id, attempt }: { id: string; attempt: number },
    status: "running" | "stopping" | "ended",
  ) => {
    const body: z.infer<typeof acknowledgement> = { object: "batch.attempt", id, attempt, status };
    return c.json(body, status === "ended" ? 200 : 202);
  };

  app.use(
    bodyLimit({ maxSize: BODY_BYTES, onError: (c) => refuse(c, 413, "body_too_large", "The body is too large.") }),
  );

  app.put("/v1/jobs/:id/attempts/:attempt", async (c) => {
    const asked = await read(c, submission);
    if (asked instanceof Response) return asked;
    const { id, attempt, tenant, created_at } = asked;
    const state = attempts.stateOf(id, attempt);
    if (state !== null) return acknowledge(c, asked, state);
    const problem = problemWith(asked, backbones);
    if (problem !== null) return refuse(c, 422, "invalid_submission", problem);
    // An attempt with a higher number means that the Worker has given up the one before.
    await attempts.drop(id);
    if (stopping()) return refuse(c, 503, "stopping", "This batch endpoint is about to stop.", STOPPING_RETRY_SECONDS);
    // Asked twice at once, it may have been started meanwhile.
    const now = attempts.stateOf(id, attempt);
    if (now !== null) return acknowledge(c, asked, now);
    const room = capacity - attempts.running();
    const place = line.ask({ tenant, job: id, createdAt: created_at }, room, Date.now());
    if (!place.granted)
      return refuse(c, 429, "capacity_exceeded", "All places are taken. Ask again later.", place.retryAfter);
    attempts.start(asked);
    return acknowledge(c, asked, "running");
  });

  app.post("/v1/jobs/:id/attempts/:attempt/stop", async (c) => {
    const asked = await read(c, stop);
    if (asked instanceof Response) return asked;
    line.leave(asked.id);
    return acknowledge(c, asked, attempts.stop(asked.id, asked.attempt, asked.action) ? "stopping" : "ended");
  });

  app.get("/health", (c) => {
    const status = stopping() ? "stopping" : "ok";
    return c.json({ status, running: attempts.running(), capacity } satisfies z.infer<typeof health>);
  });

  app.notFound((c) => refuse(c, 404, "not_found", "There is nothing here."));
  app.onError((error, c) => {
    log("error", { at: framesOf(error) });
    return refuse(c, 500, "internal_error", "The batch endpoint ran into an error of its own.");
  });
  return app;
}

const STOPPING_RETRY_SECONDS = 5;

/** Why a submission cannot be run here, or null. */
function problemWith(
  { modality, backbone, dimensions }: Submission,
  backbones: ReadonlyMap<string, Backbone>,
): string | null {
  if (modality === "embedding") return backbone === null ? null : "Embeddings as inputs need no backbone.";
  if (backbone === null) return "Texts as inputs need a backbone.";
  const { id, revision } = backbone;
  const found = backbones.get(id);
  if (found?.revision !== revision) return `The batch endpoint has no backbone '${id}' of revision '${revision}'.`;
  return found.dimensions === dimensions
    ? null
    : `The backbone '${id}' has ${found.dimensions} dimensions, not ${dimensions}.`;
}

/** The ids of messages for as long as their signatures hold. */
function makeSeen() {
  const until = new Map<string, number>();
  return {
    note(id: string, now: number): "new" | "replayed" | "full" {
      // They were added in the order in which they end.
      for (const [each, end] of until) {
        if (end > now) break;
        until.delete(each);
      }
      if (until.has(id)) return "replayed";
      if (until.size >= MOST_IDS) return "full";
      until.set(id, now + 2000 * TOLERANCE_SECONDS);
      return "new";
    },
  };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
