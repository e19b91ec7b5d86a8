/** What a training with a goal does: whether it trains a head or fine-tunes, and why. */
import type { HeadParams, TrainingChoice } from "../api/heads.ts";
import { textStatic } from "../backbones/workerd.ts";
import { ok, type Result } from "../core/failure.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import { getBatchEndpoint } from "../tenant/jobs/job-runner.ts";
import { getLedger } from "../tenant/tenant.ts";
import { recommend } from "./recommendations.ts";

export interface GoalTraining {
  /** With the method and the backbone that the goal asks for. */
  readonly params: HeadParams;
  readonly choice: TrainingChoice;
}

/** Chooses how to train on a dataset for a goal. For accuracy it makes a recommendation, which stays. */
export async function chooseForGoal(
  request: TenantRequest,
  params: HeadParams,
  dataset: string,
  goal: NonNullable<HeadParams["goal"]>,
): Promise<Result<GoalTraining>> {
  const ledger = getLedger(request.env.TENANT, request.tenant);
  if (goal === "accuracy") return followRecommendation(request, params, dataset);
  const found = await ledger.findDataset(dataset);
  if (!found.ok) return { ok: false, failure: { ...found.failure, param: "dataset" } };
  const isStatic = goal === "latency" && found.value.modality === "text" && params.backbone === undefined;
  const message =
    goal === "cost"
      ? "A head is trained in this request, at a small share of what fine-tuning costs."
      : isStatic
        ? `A head on '${textStatic.id}' predicts without any I/O and embeds in microseconds, at less accuracy than on a sentence encoder.`
        : "A head predicts as fast as its backbone embeds; fine-tuned layers would be read first.";
  return ok({
    params: { ...params, ...(isStatic ? { backbone: textStatic.id } : {}) },
    choice: { goal, method: "head", message, recommendation: null },
  });
}

async function followRecommendation(
  request: TenantRequest,
  params: HeadParams,
  dataset: string,
): Promise<Result<GoalTraining>> {
  const { env, tenant } = request;
  const { backbone, test_dataset } = params;
  const made = await recommend(request, { dataset, backbone, test_dataset, measure: false });
  if (!made.ok) return made;
  const stored = await getLedger(env.TENANT, tenant).addRecommendation(null, made.value.dataset, made.value.record);
  if (!stored.ok) return stored;
  const { id, recommendation, runner_up, reasons } = stored.value;
  // Of more data and better labels the caller takes care; the runner-up is then the method for these.
  const isAdvised = recommendation === "fine_tune" || (recommendation !== "head" && runner_up === "fine_tune");
  const isPossible = getBatchEndpoint(env) !== null;
  const method = isAdvised && isPossible ? "fine_tune" : "head";
  const because = reasons.map(({ message }) => message).join(" ");
  const message =
    isAdvised && !isPossible ? `${because} This instance has no batch endpoint to fine-tune at.` : because;
  // A head beyond one request becomes a job under `auto`.
  return ok({
    params: { ...params, method: method === "head" ? "auto" : method },
    choice: { goal: "accuracy", method, message, recommendation: id },
  });
}
