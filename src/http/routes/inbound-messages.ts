/** What other systems post to the URL of an inbound hook. A body is verified before anything in it is read. */
import { isUtf8 } from "node:buffer";
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { type InboundHook, inboundLearning, inboundPrediction } from "../../api/inbound-hooks.ts";
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { BodyError, limitBytes, notUtf8Failure, parseJsonKeepingDigits } from "../../ingest/body.ts";
import { readExample } from "../../ingest/example.ts";
import { readFields } from "../../ingest/fields.ts";
import { sha256Hex } from "../../lib/hash.ts";
import { getHeadLease } from "../../serving/active-heads.ts";
import { predictLive } from "../../serving/live-predictions.ts";
import { getPredictionOutcomes } from "../../serving/prediction-outcomes.ts";
import type { DatasetRow } from "../../tenant/data/datasets.ts";
import type { HookResponse, VerifiedMessage } from "../../tenant/hooks/inbound-messages.ts";
import { getLedger } from "../../tenant/tenant.ts";
import { HOPS_HEADER, readHops } from "../../webhooks/hops.ts";
import { type App, type HttpEnv, tenantRequest } from "../context.ts";
import { checkEncoding } from "../middleware/body.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { getServerKeys, verifyKey } from "../middleware/keys.ts";
import { checkRateLimit } from "../middleware/rate-limit.ts";
import { addRoute, anyQuery, errorResponses } from "../route.ts";
import { verifyMessage } from "./inbound-signature.ts";

/** The same for a wrong token and for a deleted hook. */
const hookNotFound: Failure = { code: "not_found", message: "There is no inbound hook here." };
const invalidSignature: Failure = {
  code: "invalid_signature",
  message: "The signature is missing, wrong or too old. Sign the body, byte for byte, with the hook's secret.",
};
/** A sender checks that a URL is its own by a challenge, which the response repeats. */
const MAX_CHALLENGE_CHARACTERS = 256;

const receiveRoute = createRoute({
  tags: ["Inbound hooks"],
  security: [],
  method: "post",
  path: "/v1/inbound/{token}",
  operationId: "receiveInboundMessage",
  summary: "Post another system's JSON to an inbound hook",
  description:
    "The body is verified as the hook says, before anything in it is read. A message that comes again is answered as before, and changes nothing.",
  request: {
    // Senders may add any parameters to a URL.
    query: anyQuery,
    params: z.object({ token: z.string() }),
    // The handler reads the body once it is verified, whatever its content type, so no validator may read it before.
    body: { content: { "*/*": { schema: z.unknown().openapi({ description: "JSON, signed as the hook says" }) } } },
  },
  responses: {
    200: {
      description: "A prediction; what was learnt; or, to a body with a 'challenge', that as text",
      content: {
        "application/json": { schema: z.union([inboundPrediction, inboundLearning]) },
        "text/plain": { schema: z.string() },
      },
    },
    ...errorResponses,
  },
});

export function inboundMessageRoutes(app: App): void {
  addRoute(app, receiveRoute, receiveMessage);
}

async function receiveMessage(c: Context<HttpEnv>): Promise<Response> {
  const token = c.req.param("token") ?? "";
  const tenant = verifyKey(getServerKeys(c.env), token, "gi");
  if (tenant === null) return respondError(c, hookNotFound);
  const tokenHash = sha256Hex(token);
  const rateLimitFailure = await checkRateLimit(c, tokenHash);
  if (rateLimitFailure) return respondError(c, rateLimitFailure);
  const ledger = getLedger(c.env.TENANT, tenant);
  const opened = await ledger.findHookByToken(tokenHash);
  if (!opened.ok) return respondError(c, opened.failure.code === "not_found" ? hookNotFound : opened.failure);
  const { hook, secret } = opened.value;
  c.set("caller", { tenant, keyId: hook.id, scopes: [] });
  c.set("ledger", () => ledger);
  c.set("logFields", { hook: hook.id });
  const hops = readHops(c.req.raw.headers);
  if (hops > limits.webhook_hops) return respondError(c, loopFailure(hops));
  const bytes = await readBody(c);
  if (!bytes.ok) return respondError(c, bytes.failure);
  const messageKey = verifyMessage(hook.verify, secret, c.req.raw.headers, bytes.value, Date.now());
  if (messageKey === null) return respondError(c, invalidSignature);
  const message = { ...messageKey, hops };
  const beginResult = await ledger.getMessageContext(hook.id, message.messageId);
  if (!beginResult.ok) return respondError(c, hookNotFound);
  if ("body" in beginResult.value) return respondHook(c, ok(beginResult.value));
  const body = readJson(c, bytes.value);
  if (!body.ok) return respondError(c, body.failure);
  const challenge = (body.value as { challenge?: unknown } | null)?.challenge;
  if (typeof challenge === "string" && challenge.length <= MAX_CHALLENGE_CHARACTERS) return c.text(challenge);
  return hook.action === "predict"
    ? respondHook(c, await predict(c, hook, message, body.value))
    : respondHook(c, await learn(c, hook, message, body.value, beginResult.value));
}

function loopFailure(actual: number): Failure {
  const limit = limits.webhook_hops;
  const message = `This is webhook ${actual} in a row that a message to an inbound hook has caused; at most ${limit} are taken. Do not send the events of inbound hooks back to them.`;
  return { code: "limit_exceeded", message, param: HOPS_HEADER, details: { limit, actual } };
}

function respondHook(c: Context<HttpEnv>, result: Result<HookResponse>): Response {
  if (!result.ok) return respondError(c, result.failure);
  if (result.value.replayed) c.header("idempotent-replayed", "true");
  return respond(c, ok(result.value.body));
}

async function readBody(c: Context<HttpEnv>): Promise<Result<Uint8Array>> {
  const limit = limits.inbound_body_bytes;
  const tooLarge = `What is posted to an inbound hook has at most ${limit} bytes.`;
  const actual = Number(c.req.header("content-length"));
  if (actual > limit) return fail("body_too_large", tooLarge, { details: { limit, actual } });
  const chunks: Uint8Array[] = [];
  try {
    for await (const chunk of limitBytes(c.req.raw.body, limit, tooLarge)) chunks.push(chunk);
  } catch (error) {
    if (error instanceof BodyError) return { ok: false, failure: error.failure };
    throw error;
  }
  return ok(Buffer.concat(chunks));
}

function readJson(c: Context<HttpEnv>, bytes: Uint8Array): Result<unknown> {
  const encodingFailure = checkEncoding(c.req.header("content-type") ?? "", c.req.header("content-encoding") ?? "");
  if (encodingFailure) return { ok: false, failure: encodingFailure };
  if (!isUtf8(bytes)) return { ok: false, failure: notUtf8Failure };
  const parsed = parseJsonKeepingDigits(new TextDecoder().decode(bytes));
  // Only JSON that is too large has figures.
  if (parsed.ok || parsed.failure.details !== undefined) return parsed;
  return fail("invalid_json", `${parsed.failure.message} Have the other system send JSON, not a form.`);
}

async function predict(
  c: Context<HttpEnv>,
  hook: InboundHook,
  message: VerifiedMessage,
  body: unknown,
): Promise<Result<HookResponse>> {
  const found = readFields(hook.fields, body);
  if (!found.ok) return found;
  const { text, id = null } = found.value;
  const lease = await getHeadLease(c.env, c.var.caller.tenant, hook.head ?? "", null);
  if (!lease.ok) return lease;
  const predicted = await predictLive(tenantRequest(c), lease.value, [{ text }], () => "fields", {
    truncate: hook.truncate,
  });
  if (!predicted.ok) return predicted;
  const { id: head } = lease.value.head;
  const { version, predictions } = predicted.value;
  const prediction = { ...predictions[0] };
  return c.var.ledger().recordPrediction(hook.id, message, {
    head,
    version,
    input_id: id,
    prediction,
  });
}

async function learn(
  c: Context<HttpEnv>,
  hook: InboundHook,
  message: VerifiedMessage,
  body: unknown,
  { dataset, learners }: { dataset: DatasetRow | null; learners: readonly string[] },
): Promise<Result<HookResponse>> {
  if (dataset === null) return fail("not_found", `No dataset '${hook.dataset}'.`);
  const found = readFields(hook.fields, body);
  if (!found.ok) return found;
  const read = readExample(found.value, dataset, "fields", hook.truncate);
  if (!read.ok) return read;
  const { example, truncated } = read.value;
  const request = tenantRequest(c);
  const outcomes = await Promise.all(
    learners.map((head) => getPredictionOutcomes(request, head, null, [example], dataset.out_of_scope_label)),
  );
  return c.var.ledger().learnExample(hook.id, message, {
    dataset,
    example: { example, outcomes: outcomes.flat(2) },
    truncated,
  });
}
