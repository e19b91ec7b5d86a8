import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { ok } from "../../core/failure.ts";
import { isSecret } from "../../jobs/sign.ts";
import { directory } from "../../tenant/directory.ts";
import { workerdTensors } from "../../tensor/workerd.ts";
import { sharedBackbone } from "../../serving/backbones.ts";
import { type App, anyQuery, type HttpEnv, route } from "../context.ts";
import { answer } from "../middleware/errors.ts";
import { json } from "../../api/schema.ts";

/** Anyone may ask, and each check asks the storage that all tenants share: an isolate checks once in so many milliseconds. */
const VERDICT_MS = 5_000;
/** How long the default backbone, which may be remote, has to embed a word. */
const BACKBONE_MS = 5_000;
/** The last verdict. Until the first success none is kept, so that the end of a start is seen at once. */
let verdict: { readonly env: Cloudflare.Env; readonly ready: boolean; readonly until: number } | undefined;

const status = z.object({ status: z.enum(["ok", "unavailable"]) });

export function healthRoutes(app: App): void {
  route(
    app,
    createRoute({
      tags: ["Health"],
      method: "get",
      path: "/health/live",
      summary: "Whether the Worker runs",
      request: { query: anyQuery },
      responses: { 200: json(status, "It runs") },
    }),
    (c) => answer(c, ok({ status: "ok" })),
  );
  route(
    app,
    createRoute({
      tags: ["Health"],
      method: "get",
      path: "/health/ready",
      summary: "Whether the tensor backend, storage and default backbone answer",
      request: { query: anyQuery },
      responses: { 200: json(status, "All answer"), 503: json(status, "Not all answer") },
    }),
    async (c) => {
      const kept = verdict?.env === c.env ? verdict : undefined;
      if (kept && kept.until > Date.now()) return tell(c, kept.ready);
      const ready = await check(c.env).catch((error) => {
        console.error(JSON.stringify({ request_id: c.var.requestId, event: "not_ready", error: String(error) }));
        return false;
      });
      if (ready || kept) verdict = { env: c.env, ready, until: Date.now() + VERDICT_MS };
      return tell(c, ready);
    },
  );
}

function tell(c: Context<HttpEnv>, ready: boolean): Response {
  return c.json({ status: ready ? "ok" : "unavailable" }, ready ? 200 : 503);
}

async function check(env: Cloudflare.Env): Promise<boolean> {
  if (!env.SERVER_KEY || !env.ADMIN_KEY) throw new Error("the secrets SERVER_KEY and ADMIN_KEY are not both set");
  for (const secret of [env.BATCH_SECRET, env.PREVIOUS_BATCH_SECRET])
    if (secret && !isSecret(secret)) throw new Error("the secret of the batch endpoint is not 'whsec_' and base64");
  const tensors = await workerdTensors();
  const one = tensors.matrix(1, 1, Float32Array.of(2));
  const product = tensors.multiply(one, one);
  const four = tensors.read(product)[0];
  tensors.free(one);
  tensors.free(product);
  const backbone = sharedBackbone(env, undefined, "");
  if (!backbone.ok) return false;
  const [embedded] = await Promise.all([
    Promise.race([backbone.value.embed(["ready"]), scheduler.wait(BACKBONE_MS)]),
    env.KV.get("health"),
    env.BUCKET.head("health"),
    directory(env.DIRECTORY).list({ limit: 1 }),
  ]);
  return four === 4 && embedded?.failure === null;
}
