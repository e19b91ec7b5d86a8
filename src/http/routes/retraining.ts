/** The training that a head's policy asks for: the ledger calls it, with a token for one attempt, outside of the contract. */
import type { Context } from "hono";
import { newHead } from "../../api/heads.ts";
import type { Result } from "../../core/failure.ts";
import type { PromotionMode } from "../../core/lifecycle/job.ts";
import { verifyRetrainingToken } from "../../jobs/token.ts";
import { RETRAINING_PATH } from "../../tenant/heads/retraining.ts";
import { getBatchEndpoint } from "../../tenant/jobs/job-runner.ts";
import { getLedger } from "../../tenant/tenant.ts";
import { resolveTrainingJobSpec, trainVersion } from "../../training/version.ts";
import type { App, HttpEnv } from "../context.ts";
import { bearerToken } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { getServerKeys } from "../middleware/keys.ts";
import { newJobId } from "./jobs.ts";

const promotionByPolicy = { if_not_worse: "if_better", always: "always", never: "never" } as const satisfies Record<
  string,
  PromotionMode
>;

export function retrainingRoutes(app: App): void {
  app.post(`${RETRAINING_PATH}/:head/retrain`, async (c) => {
    const claims = verifyRetrainingToken(getServerKeys(c.env), bearerToken(c) ?? "");
    if (claims === null || claims.head !== c.req.param("head"))
      return respondError(c, {
        code: "invalid_api_key",
        message: "The token is missing or wrong, or that of another head.",
      });
    const { tenant, head, attempt } = claims;
    c.set("caller", { tenant, keyId: "", scopes: [] });
    const work = retrain(c, head, attempt);
    // Should the ledger's object be lost meanwhile, the training ends by itself, and leaves its place and its memory.
    c.executionCtx.waitUntil(work);
    return respond(c, await work);
  });
}

/** Trains the head's next version, or makes the job that does what is beyond one request. */
async function retrain(c: Context<HttpEnv>, head: string, attempt: number): Promise<Result<{ readonly id: string }>> {
  const tenantLedger = getLedger(c.env.TENANT, c.var.caller.tenant);
  const retrainingSpec = await tenantLedger.getRetrainingSpec(head, attempt);
  if (!retrainingSpec.ok) return retrainingSpec;
  const { dataset, backbone, promote } = retrainingSpec.value;
  const params = newHead.parse({ name: head, dataset, ...(backbone === null ? {} : { backbone }) });
  const result = await trainVersion(c, params, (version) => tenantLedger.commitRetraining(attempt, version));
  if (result.ok || result.failure.code !== "edge_budget_exceeded" || getBatchEndpoint(c.env) === null) return result;
  const spec = await resolveTrainingJobSpec(c, params, `dataset:${dataset}`, promotionByPolicy[promote], "head");
  // No batch endpoint has the layers of a fine-tuned backbone.
  if (!spec.ok) return spec.failure.code === "not_available" ? result : spec;
  return tenantLedger.createRetrainingJob(attempt, newJobId(), { ...spec.value, head });
}
