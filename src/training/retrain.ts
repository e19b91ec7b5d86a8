/** The training that a head's policy asks for. */
import { newHead } from "../api/heads.ts";
import type { Result } from "../core/failure.ts";
import type { PromotionMode } from "../core/lifecycle/job.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import { getBatchEndpoint } from "../tenant/jobs/job-runner.ts";
import { getLedger } from "../tenant/tenant.ts";
import { resolveHeadJobSpec } from "./job-spec.ts";
import { newJobId } from "./jobs.ts";
import { trainVersion } from "./version.ts";

const promotionByPolicy = { if_not_worse: "if_better", always: "always", never: "never" } as const satisfies Record<
  string,
  PromotionMode
>;

/** Trains the head's next version, or makes the job for a training beyond one request. */
export async function retrain(
  request: TenantRequest,
  head: string,
  attempt: number,
): Promise<Result<{ readonly id: string }>> {
  const { env, tenant } = request;
  const tenantLedger = getLedger(env.TENANT, tenant);
  const retrainingSpec = await tenantLedger.getRetrainingSpec(head, attempt);
  if (!retrainingSpec.ok) return retrainingSpec;
  const { dataset, backbone, clamp, inScopeRecall, labels, promote, testDataset } = retrainingSpec.value;
  const params = newHead.parse({
    name: head,
    dataset,
    clamp,
    ...(inScopeRecall === null ? {} : { out_of_scope: { in_scope_recall: inScopeRecall } }),
    ...(backbone === null ? {} : { backbone }),
    ...(labels.length === 0 ? {} : { labels }),
    ...(testDataset === null ? {} : { test_dataset: testDataset }),
  });
  const result = await trainVersion(request, params, async (version, test, vectors) =>
    // A test that may succeed later is worth another attempt.
    test?.failure?.retryAfter === undefined
      ? tenantLedger.commitRetraining(attempt, version, test?.run ?? null, vectors)
      : { ok: false, failure: test.failure },
  );
  if (result.ok || result.failure.code !== "edge_budget_exceeded" || getBatchEndpoint(env) === null) return result;
  const spec = await resolveHeadJobSpec(request, params, `dataset:${dataset}`, promotionByPolicy[promote], "head");
  // Batch endpoints do not have the layers of a fine-tuned backbone.
  if (!spec.ok) return spec.failure.code === "not_available" ? result : spec;
  return tenantLedger.createRetrainingJob(attempt, newJobId(), { ...spec.value, head });
}
