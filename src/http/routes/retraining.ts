/** The training that a head's policy asks for: the ledger calls it, with a token for one attempt, outside of the contract. */
import type { Context } from "hono";
import type { Result } from "../../core/failure.ts";
import type { Promote } from "../../core/lifecycle/job.ts";
import { verifyRetrainingToken } from "../../jobs/token.ts";
import { batchEndpoint } from "../../tenant/jobs/job-runner.ts";
import { RETRAINING_PATH } from "../../tenant/heads/retraining.ts";
import { ledger } from "../../tenant/tenant.ts";
import { bearer } from "../middleware/auth.ts";
import type { App, HttpEnv } from "../context.ts";
import { answer, failed } from "../middleware/errors.ts";
import { newHead } from "../../api/heads.ts";
import { newJobId } from "./jobs.ts";
import { serverKeysOf } from "../middleware/keys.ts";
import { trainingJob, trainVersion } from "../../training/version.ts";

const promoteOf = { if_not_worse: "if_better", always: "always", never: "never" } as const satisfies Record<
  string,
  Promote
>;

export function retrainingRoutes(app: App): void {
  app.post(`${RETRAINING_PATH}/:head/retrain`, async (c) => {
    const retraining = verifyRetrainingToken(serverKeysOf(c.env), bearer(c) ?? "");
    if (retraining === null || retraining.head !== c.req.param("head"))
      return failed(c, { code: "invalid_api_key", message: "The token is missing or wrong, or that of another head." });
    const { tenant, head, attempt } = retraining;
    c.set("caller", { tenant, keyId: "", scopes: [] });
    const work = retrain(c, head, attempt);
    // Should the ledger's object be lost meanwhile, the training ends by itself, and leaves its place and its memory.
    c.executionCtx.waitUntil(work);
    return answer(c, await work);
  });
}

/** Trains the head's next version, or makes the job that does what is beyond one request. */
async function retrain(c: Context<HttpEnv>, head: string, attempt: number): Promise<Result<{ readonly id: string }>> {
  const tenant = ledger(c.env.TENANT, c.var.caller.tenant);
  const open = await tenant.openRetraining(head, attempt);
  if (!open.ok) return open;
  const { dataset, backbone, promote } = open.value;
  const wanted = newHead.parse({ name: head, dataset, ...(backbone === null ? {} : { backbone }) });
  const made = await trainVersion(c, wanted, (version) => tenant.commitRetraining(attempt, version));
  if (made.ok || made.failure.code !== "edge_budget_exceeded" || batchEndpoint(c.env) === null) return made;
  const spec = await trainingJob(c, wanted, `dataset:${dataset}`, promoteOf[promote], "head");
  // No batch endpoint has the layers of a fine-tuned backbone.
  if (!spec.ok) return spec.failure.code === "not_available" ? made : spec;
  return tenant.createRetrainingJob(attempt, newJobId(), { ...spec.value, head });
}
