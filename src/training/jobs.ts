/** Makes fine-tuning jobs. */
import type { HeadParams, TrainingChoice } from "../api/heads.ts";
import type { FineTuningJob } from "../api/jobs.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import type { PromotionMode } from "../core/lifecycle/job.ts";
import { newId } from "../lib/id.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import { getBatchEndpoint } from "../tenant/jobs/job-runner.ts";
import type { JobSpec } from "../tenant/jobs/jobs.ts";
import { getLedger } from "../tenant/tenant.ts";
import { storeExamples } from "./files.ts";
import { type NewJob, resolveHeadJobSpec } from "./job-spec.ts";

const noBatchEndpoint = fail("not_available", "This instance has no batch endpoint, so there are no fine-tuning jobs.");

export function newJobId(): string {
  return newId("ftjob-");
}

/** An idempotent change of the ledger: the claim of its key, if any, and the status of its response. */
interface IdempotentChange {
  readonly claim: string | null;
  readonly status: 200 | 202;
}

/** Makes a job. A head without a name gets the job's id as its name. */
export async function createJob(
  { env }: TenantRequest,
  spec: NewJob,
  { claim, status }: IdempotentChange,
): Promise<Result<FineTuningJob>> {
  if (getBatchEndpoint(env) === null) return noBatchEndpoint;
  const id = newJobId();
  return getLedger(env.TENANT, spec.tenant).createJob(claim, id, { ...spec, head: spec.head ?? id }, status);
}

/**
 * Makes the job that trains a head as `POST /v1/heads` asks for it. Examples of the request become a file of the job's
 * own.
 */
export async function createHeadJob(
  request: TenantRequest,
  params: HeadParams,
  trainable: "head" | "all",
  claim: string | null,
  choice: TrainingChoice | null = null,
): Promise<Result<FineTuningJob>> {
  const trainingFile =
    params.dataset === undefined
      ? await storeExamples(request, params.name, params.examples ?? [])
      : ok(`dataset:${params.dataset}`);
  const spec = trainingFile.ok
    ? await resolveHeadJobSpec(request, params, trainingFile.value, choosePromotion(params, trainable), trainable)
    : trainingFile;
  const result = spec.ok
    ? await createJob(
        request,
        { ...spec.value, source: markOwned(spec.value.source), ...(choice === null ? {} : { choice }) },
        { claim, status: 202 },
      )
    : spec;
  // The caller did not ask for a file, so nothing of it stays without a job.
  if (!result.ok && trainingFile.ok && params.dataset === undefined)
    await getLedger(request.env.TENANT, request.tenant).deleteFile(trainingFile.value);
  return result;
}

/**
 * A head that is too large for a request has nothing to be compared with. Trained layers are compared with the frozen
 * head.
 */
function choosePromotion({ promote }: HeadParams, trainable: "head" | "all"): PromotionMode {
  if (!promote) return "never";
  return trainable === "head" ? "always" : "if_better";
}

/** A file that was made for a job alone is deleted with it. */
function markOwned(source: JobSpec["source"]): JobSpec["source"] {
  return source.kind === "file" ? { ...source, own: true } : source;
}
