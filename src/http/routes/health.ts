import { createRoute } from "@hono/zod-openapi";
import type { Context } from "hono";
import { healthStatus } from "../../api/health.ts";
import type { Backbone } from "../../backbones/backbone.ts";
import { ok } from "../../core/failure.ts";
import { isSecret } from "../../jobs/sign.ts";
import { chooseBackbones } from "../../serving/backbones.ts";
import { getDirectory } from "../../tenant/directory.ts";
import { workerdTensorBackend } from "../../tensor/workerd.ts";
import type { App, HttpEnv } from "../context.ts";
import { respond } from "../middleware/errors.ts";
import { addRoute, anyQuery, errorResponses, jsonResponse } from "../route.ts";

/** Anyone may call this route, and each check reads the storage that all tenants share. So an isolate caches the result. */
const CHECK_TTL_MS = 5_000;
/** How long a backbone, which may be remote, may take to embed a word. */
const BACKBONE_TIMEOUT_MS = 5_000;
/** The last result. It is cached from the first success on, so that a start which has ended is seen at once. */
let lastCheck: { readonly env: Cloudflare.Env; readonly ready: boolean; readonly expiresAt: number } | undefined;

const common = { tags: ["Health"], security: [] };

const liveRoute = createRoute({
  ...common,
  method: "get",
  path: "/health/live",
  operationId: "getLiveness",
  summary: "Whether the Worker runs",
  description: "For whoever restarts what does not run. Nothing but the status is told.",
  request: { query: anyQuery },
  responses: { 200: jsonResponse(healthStatus, "It runs"), ...errorResponses },
});

const readyRoute = createRoute({
  ...common,
  method: "get",
  path: "/health/ready",
  operationId: "getReadiness",
  summary: "Whether the tensor backend, storage and the backbones of a training by default answer",
  description: "For load balancers. The result is kept for five seconds.",
  request: { query: anyQuery },
  responses: {
    200: jsonResponse(healthStatus, "All answer"),
    503: jsonResponse(healthStatus, "Not all answer"),
    ...errorResponses,
  },
});

export function healthRoutes(app: App): void {
  addRoute(app, liveRoute, (c) => respond(c, ok({ status: "ok" })));
  addRoute(app, readyRoute, getReadiness);
}

async function getReadiness(c: Context<HttpEnv>): Promise<Response> {
  const cached = lastCheck?.env === c.env ? lastCheck : undefined;
  if (cached && cached.expiresAt > Date.now()) return respondStatus(c, cached.ready);
  const ready = await checkReadiness(c.env).catch((error) => {
    console.error(JSON.stringify({ request_id: c.var.requestId, event: "not_ready", error: String(error) }));
    return false;
  });
  if (ready || cached) lastCheck = { env: c.env, ready, expiresAt: Date.now() + CHECK_TTL_MS };
  return respondStatus(c, ready);
}

function respondStatus(c: Context<HttpEnv>, ready: boolean): Response {
  return c.json({ status: ready ? "ok" : "unavailable" }, ready ? 200 : 503);
}

async function checkReadiness(env: Cloudflare.Env): Promise<boolean> {
  if (!env.SERVER_KEY || !env.ADMIN_KEY) throw new Error("the secrets SERVER_KEY and ADMIN_KEY are not both set");
  for (const secret of [env.BATCH_SECRET, env.PREVIOUS_BATCH_SECRET])
    if (secret && !isSecret(secret)) throw new Error("the secret of the batch endpoint is not 'whsec_' and base64");
  const tensors = await workerdTensorBackend();
  const matrix = tensors.matrix(1, 1, Float32Array.of(2));
  const product = tensors.multiply(matrix, matrix);
  const four = tensors.read(product)[0];
  tensors.free(matrix);
  tensors.free(product);
  // The default is shared, so it is no tenant's.
  const backbones = await chooseBackbones(env, "", "text", undefined, "");
  if (!backbones.ok) return false;
  const embed = async (backbone: Backbone | null) =>
    (await Promise.race([backbone?.embed(["ready"]), scheduler.wait(BACKBONE_TIMEOUT_MS)]))?.failure === null;
  const [areEmbedded] = await Promise.all([
    Promise.all(backbones.value.map(embed)),
    env.KV.get("health"),
    env.BUCKET.head("health"),
    getDirectory(env.DIRECTORY).list({ limit: 1 }),
  ]);
  return four === 4 && areEmbedded.every(Boolean);
}
