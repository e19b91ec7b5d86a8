/** What other systems post to the URL of an inbound hook. Nothing of a body is read before it is verified. */
import { isUtf8 } from "node:buffer";
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { sha256Hex } from "../../lib/hash.ts";
import type { DatasetRow } from "../../tenant/data/datasets.ts";
import type { Answered, InboundHook, MessageName } from "../../tenant/hooks/inbound.ts";
import { ledger } from "../../tenant/tenant.ts";
import { servedHead } from "../../serving/active-heads.ts";
import { BodyRefused, countBytes, notUtf8, parseJson, wrongEncoding } from "../middleware/body.ts";
import { type App, anyQuery, type HttpEnv, route } from "../context.ts";
import { answer, failed } from "../middleware/errors.ts";
import { parseExample } from "../../ingest/example.ts";
import { hitsOf } from "../../serving/outcomes.ts";
import { readFields } from "../../ingest/fields.ts";
import { verifyMessage } from "./inbound-verify.ts";
import { serverKeysOf, verifyKey } from "../middleware/keys.ts";
import { predictInputs, prediction } from "./predict.ts";
import { overRateLimit } from "../middleware/rate-limit.ts";
import { errors } from "../../api/schema.ts";

const predicted = prediction
  .extend({
    object: z.literal("inbound.prediction"),
    id: z.string().openapi({ description: "the hook's" }),
    input_id: z.string().nullable(),
    model: z.string(),
  })
  .openapi("InboundPrediction");
const learning = z
  .object({
    object: z.literal("inbound.learning"),
    id: z.string().openapi({ description: "the hook's" }),
    dataset: z.string(),
    example: z.string().openapi({ description: "its id in the data set" }),
    outcome: z.enum(["added", "updated", "unchanged"]),
  })
  .openapi("InboundLearning");

/** The same for a token that is wrong, and for a hook that is gone. */
const noHook: Failure = { code: "not_found", message: "There is no inbound hook here." };
const unsigned: Failure = {
  code: "invalid_signature",
  message: "The signature is missing, wrong or too old. Sign the body, byte for byte, with the hook's secret.",
};
/** A sender that wants to know whether this is its URL has what it sent answered. */
const CHALLENGE_CHARACTERS = 256;

export function inboundRoutes(app: App): void {
  route(
    app,
    createRoute({
      tags: ["Inbound hooks"],
      security: [],
      method: "post",
      path: "/v1/inbound/{token}",
      summary: "Post another system's JSON to an inbound hook",
      request: {
        // Senders may add to a URL what they like.
        query: anyQuery,
        params: z.object({ token: z.string() }),
        // Read by the handler once it is verified, whatever its content type, and so not by the validator of a JSON body.
        body: { content: { "*/*": { schema: z.unknown().openapi({ description: "JSON, signed as the hook says" }) } } },
      },
      responses: {
        200: {
          description: "A prediction; what was learnt; or, to a body with a 'challenge', that as text",
          content: {
            "application/json": { schema: z.union([predicted, learning]) },
            "text/plain": { schema: z.string() },
          },
        },
        ...errors,
      },
    }),
    receive,
  );
}

async function receive(c: Context<HttpEnv>): Promise<Response> {
  const token = c.req.param("token") ?? "";
  const tenant = verifyKey(serverKeysOf(c.env), token, "gi");
  if (tenant === null) return failed(c, noHook);
  const tokenHash = sha256Hex(token);
  const limited = await overRateLimit(c, tokenHash);
  if (limited) return failed(c, limited);
  const owner = ledger(c.env.TENANT, tenant);
  const opened = await owner.openHook(tokenHash);
  if (!opened.ok) return failed(c, noHook);
  const { hook, secret } = opened.value;
  c.set("caller", { tenant, keyId: hook.id, scopes: [] });
  c.set("figures", { hook: hook.id });
  const bytes = await readBody(c);
  if (!bytes.ok) return failed(c, bytes.failure);
  const message = verifyMessage(hook.verify, secret, c.req.raw.headers, bytes.value, Date.now());
  if (message === null) return failed(c, unsigned);
  const begun = await owner.beginMessage(hook.id, message.message);
  if (!begun.ok) return failed(c, noHook);
  if ("answer" in begun.value) return told(c, ok(begun.value));
  const body = readJson(c, bytes.value);
  if (!body.ok) return failed(c, body.failure);
  const challenge = (body.value as { challenge?: unknown } | null)?.challenge;
  if (typeof challenge === "string" && challenge.length <= CHALLENGE_CHARACTERS)
    return c.text(challenge, 200, { "x-content-type-options": "nosniff" });
  return hook.action === "predict"
    ? told(c, await predict(c, hook, message, body.value))
    : told(c, await learn(c, hook, message, body.value, begun.value));
}

function told(c: Context<HttpEnv>, result: Result<Answered>): Response {
  if (!result.ok) return failed(c, result.failure);
  if (result.value.replayed) c.header("idempotent-replayed", "true");
  return answer(c, ok(result.value.answer));
}

async function readBody(c: Context<HttpEnv>): Promise<Result<Uint8Array>> {
  const limit = limits.inbound_body_bytes;
  const tooLarge = `What is posted to an inbound hook has at most ${limit} bytes.`;
  const actual = Number(c.req.header("content-length"));
  if (actual > limit) return fail("body_too_large", tooLarge, { details: { limit, actual } });
  const parts: Uint8Array[] = [];
  try {
    for await (const part of countBytes(c.req.raw.body, limit, tooLarge)) parts.push(part);
  } catch (error) {
    if (error instanceof BodyRefused) return { ok: false, failure: error.failure };
    throw error;
  }
  return ok(Buffer.concat(parts));
}

function readJson(c: Context<HttpEnv>, bytes: Uint8Array): Result<unknown> {
  const encoded = wrongEncoding(c.req.header("content-type") ?? "", c.req.header("content-encoding") ?? "");
  if (encoded) return { ok: false, failure: encoded };
  if (!isUtf8(bytes)) return { ok: false, failure: notUtf8 };
  const parsed = parseJson(new TextDecoder().decode(bytes));
  return parsed.ok
    ? parsed
    : fail("invalid_json", "The body is not valid JSON. Have the other system send JSON, not a form.");
}

async function predict(
  c: Context<HttpEnv>,
  hook: InboundHook,
  message: MessageName,
  body: unknown,
): Promise<Result<Answered>> {
  const found = readFields(hook.fields, body);
  if (!found.ok) return found;
  const { text, id = null } = found.value;
  const { tenant } = c.var.caller;
  const served = await servedHead(c.env, tenant, hook.head ?? "", null);
  if (!served.ok) return served;
  const made = await predictInputs(c, served.value, [{ text }], () => "fields");
  if (!made.ok) return made;
  const { id: head, version } = served.value;
  const prediction = { ...made.value[0] };
  return ledger(c.env.TENANT, tenant).predicted(hook.id, message, { head, version, input_id: id, prediction });
}

async function learn(
  c: Context<HttpEnv>,
  hook: InboundHook,
  message: MessageName,
  body: unknown,
  { dataset, learners }: { dataset: DatasetRow | null; learners: readonly string[] },
): Promise<Result<Answered>> {
  if (dataset === null) return fail("not_found", `No dataset '${hook.dataset}'.`);
  const found = readFields(hook.fields, body);
  if (!found.ok) return found;
  const example = parseExample(found.value, dataset, "fields");
  if (!example.ok) return example;
  const hits = await Promise.all(
    learners.map((head) => hitsOf(c, head, null, [example.value], dataset.out_of_scope_label)),
  );
  const { tenant } = c.var.caller;
  return ledger(c.env.TENANT, tenant).learnt(hook.id, message, dataset, {
    example: example.value,
    hits: hits.flat().filter((hit) => hit !== null),
  });
}
