/** The batch endpoint's HTTP interface, which the Worker calls. */
import { type Context, Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import type { z } from "zod";
import type { Backbone } from "../../backbones/backbone.ts";
import { type acknowledgement, type health, type Submission, stop, submission } from "../../jobs/protocol.ts";
import { TOLERANCE_SECONDS, verify } from "../../jobs/sign.ts";
import { toMilliseconds } from "../../lib/time.ts";
import { type Log, redactedStack } from "../log.ts";
import { makeFairQueue } from "./fair-queue.ts";
import { countFreeSlots, isSmallJob, type SlotLimits } from "./slots.ts";
import type { Supervisor } from "./supervisor.ts";

const BODY_BYTES = 256 * 1024;
/** Message ids that are remembered at once. */
const MAX_IDS = 100_000;
const STOPPING_RETRY_SECONDS = 5;

interface BatchAppOptions extends SlotLimits {
  readonly secrets: readonly string[];
  readonly backbones: ReadonlyMap<string, Backbone>;
  readonly supervisor: Supervisor;
  /** Whether the endpoint takes no more attempts. */
  readonly isStopping: () => boolean;
  readonly log: Log;
}

export function makeBatchApp(options: BatchAppOptions): Hono {
  const { capacity, supervisor, isStopping, log } = options;
  const app = new Hono();
  const fairQueue = makeFairQueue();
  const refuse = makeRefuse(log);
  const readVerified = makeVerifiedReader(options.secrets, refuse);

  app.use(
    bodyLimit({ maxSize: BODY_BYTES, onError: (c) => refuse(c, 413, "body_too_large", "The body is too large.") }),
  );

  app.put("/v1/jobs/:id/attempts/:attempt", async (c) => {
    const request = await readVerified(c, submission);
    if (request instanceof Response) return request;
    const { id, attempt, tenant, created_at, estimate } = request;
    const state = supervisor.stateOf(id, attempt);
    if (state !== null) return acknowledge(c, request, state);
    const problem = submissionProblem(request, options.backbones);
    if (problem !== null) return refuse(c, 422, "invalid_submission", problem);
    // An attempt with a higher number means that the Worker has given up the one before.
    await supervisor.kill(id);
    if (isStopping())
      return refuse(c, 503, "stopping", "This batch endpoint is about to stop.", STOPPING_RETRY_SECONDS);
    // If the same submission came twice at once, the other request may have started it meanwhile.
    const currentState = supervisor.stateOf(id, attempt);
    if (currentState !== null) return acknowledge(c, request, currentState);
    const waitingJob = { operations: estimate?.operations ?? null, createdAt: toMilliseconds(created_at) };
    const admission = fairQueue.acquireSlot(
      { tenant, job: id, isSmall: isSmallJob(request), ...waitingJob },
      countFreeSlots(supervisor.running(), options),
      Date.now(),
    );
    if (!admission.granted)
      return refuse(c, 429, "capacity_exceeded", "All places are taken. Ask again later.", admission.retryAfter);
    supervisor.start(request);
    return acknowledge(c, request, "running");
  });

  app.post("/v1/jobs/:id/attempts/:attempt/stop", async (c) => {
    const request = await readVerified(c, stop);
    if (request instanceof Response) return request;
    const { id, attempt, action } = request;
    fairQueue.remove(id);
    if (supervisor.stop(id, attempt, action)) return acknowledge(c, request, "stopping");
    // The Worker stops attempts that this endpoint took. One that is unknown here ran in an earlier process.
    return acknowledge(c, request, supervisor.stateOf(id, attempt) === "ended" ? "ended" : "orphaned");
  });

  app.get("/health", (c) => {
    const status = isStopping() ? "stopping" : "ok";
    return c.json({ status, running: supervisor.running().length, capacity } satisfies z.infer<typeof health>);
  });

  app.notFound((c) => refuse(c, 404, "not_found", "There is nothing here."));
  app.onError((error, c) => {
    log("error", { stack: redactedStack(error) });
    return refuse(c, 500, "internal_error", "The batch endpoint ran into an error of its own.");
  });
  return app;
}

type Refuse = (
  c: Context,
  status: ContentfulStatusCode,
  code: string,
  message: string,
  retryAfterSeconds?: number,
) => Response;

function makeRefuse(log: Log): Refuse {
  return (c, status, code, message, retryAfterSeconds) => {
    if (retryAfterSeconds !== undefined) c.header("retry-after", String(retryAfterSeconds));
    // Jobs that wait for a slot ask every few seconds.
    if (status !== 429) log("request_refused", { path: c.req.path, status, code });
    return c.json({ error: { message, code } }, status);
  };
}

/**
 * Makes the function that reads a request's body: signed by one of the secrets, not seen before, accepted by a schema, and
 * for the attempt that the path names. It answers the refusal otherwise.
 */
function makeVerifiedReader(secrets: readonly string[], refuse: Refuse) {
  const replayGuard = makeReplayGuard();
  return async <T extends { id: string; attempt: number }>(c: Context, schema: z.ZodType<T>): Promise<T | Response> => {
    const text = await c.req.text();
    const id = verify(secrets, text, c.req.raw.headers);
    if (id === null) return refuse(c, 401, "invalid_signature", "The signature is not valid, or not of now.");
    const replayStatus = replayGuard.check(id, Date.now());
    if (replayStatus === "replayed") return refuse(c, 409, "replayed", "This message was received before.");
    if (replayStatus === "full")
      return refuse(c, 503, "too_many_messages", "Too many messages in too short a time.", 30);
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
}

function acknowledge(
  c: Context,
  { id, attempt }: { id: string; attempt: number },
  state: "running" | "stopping" | "ended" | "orphaned",
): Response {
  const fields = { object: "batch.attempt", id, attempt } as const;
  const body: z.infer<typeof acknowledgement> =
    state === "orphaned" ? { ...fields, status: "ended", endpoint_restarted: true } : { ...fields, status: state };
  return c.json(body, body.status === "ended" ? 200 : 202);
}

/** The reason why a submission cannot be run here, or null. */
function submissionProblem(
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

/** Remembers the ids of messages for as long as their signatures are valid. */
function makeReplayGuard() {
  const expiries = new Map<string, number>();
  return {
    check(id: string, now: number): "new" | "replayed" | "full" {
      // They are in the order in which they expire.
      for (const [each, end] of expiries) {
        if (end > now) break;
        expiries.delete(each);
      }
      if (expiries.has(id)) return "replayed";
      if (expiries.size >= MAX_IDS) return "full";
      expiries.set(id, now + 2000 * TOLERANCE_SECONDS);
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
