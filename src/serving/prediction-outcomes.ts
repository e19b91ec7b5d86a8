/** Whether heads predict labelled examples correctly that they have not been trained on. */
import type { Input, StoredExample } from "../api/examples.ts";
import type { Prediction } from "../api/predictions.ts";
import type { Task } from "../core/head.ts";
import type { PredictionOutcome } from "../tenant/heads/feedback.ts";
import { getServedHead } from "./active-heads.ts";
import { predictInputs } from "./predict.ts";
import type { TenantRequest } from "./tenant-request.ts";

/**
 * For each example whether a version of the head (by default the active one) predicts it correctly. null where the example
 * has no label that the head could predict, for regression, and where the head cannot predict now: learning needs no
 * prediction.
 */
export async function getPredictionOutcomes(
  request: TenantRequest,
  head: string,
  version: number | null,
  examples: readonly StoredExample[],
  outOfScopeLabel: string | null,
): Promise<(PredictionOutcome | null)[]> {
  const noOutcomes = examples.map(() => null);
  const served = examples.length === 0 ? null : await getServedHead(request.env, request.tenant, head, version);
  if (!served?.ok || served.value.task === "regression") return noOutcomes;
  const { value } = served;
  const predictions = await predictInputs(request, value, examples.map(toInput), (index) => `examples[${index}]`);
  if (!predictions.ok) return noOutcomes;
  return examples.map(({ target }, i) => {
    const correct = isCorrect(value.task, JSON.parse(target), predictions.value[i], outOfScopeLabel);
    return correct === null ? null : { head, version: value.version, isCorrect: correct };
  });
}

function toInput({ input }: StoredExample): Input {
  return typeof input === "string"
    ? { text: input }
    : { embedding: Array.from(new Float32Array(input.slice().buffer)) };
}

function isCorrect(
  task: Task,
  target: string | readonly string[],
  prediction: Prediction | undefined,
  outOfScopeLabel: string | null,
): boolean | null {
  if (prediction === undefined) return null;
  // Out-of-scope examples do not count, as in an evaluation.
  if (task === "single_label") return target === outOfScopeLabel ? null : prediction.label === target;
  const labels = [...(prediction.labels ?? [])].sort();
  return labels.length === target.length && labels.every((label, i) => label === target[i]);
}
