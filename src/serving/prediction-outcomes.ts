/** Whether heads predict labelled examples correctly that they have not been trained on. */
import type { Input, StoredExample } from "../api/examples.ts";
import type { Prediction } from "../api/predictions.ts";
import type { Result } from "../core/failure.ts";
import type { Task } from "../core/head.ts";
import type { PredictionOutcome } from "../tenant/heads/feedback.ts";
import type { ServedHead } from "../tenant/heads/served-heads.ts";
import { getHeadLease } from "./active-heads.ts";
import { type EmbeddedRows, type PredictedInputs, predictInputs } from "./predict.ts";
import type { TenantRequest } from "./tenant-request.ts";

/**
 * For each example whether versions of the head predict it correctly: the given one (by default the active one), and those
 * that share or shadow the head's traffic. Empty where the example has no label that the head could predict, for regression,
 * and where the head cannot predict now: learning needs no prediction.
 */
export async function getPredictionOutcomes(
  request: TenantRequest,
  name: string,
  version: number | null,
  examples: readonly StoredExample[],
  outOfScopeLabel: string | null,
): Promise<PredictionOutcome[][]> {
  const outcomes = examples.map((): PredictionOutcome[] => []);
  const inputs = examples.map(toInput);
  let embedded: EmbeddedRows | null = null;
  for (const head of examples.length === 0 ? [] : await listJudged(request, name, version)) {
    if (head.task === "regression") continue;
    const paramAt = (index: number) => `examples[${index}]`;
    const predicted: Result<PredictedInputs> = await predictInputs(request, head, inputs, paramAt, {}, embedded);
    if (!predicted.ok) continue;
    embedded = predicted.value.embedded;
    for (const [i, { target }] of examples.entries()) {
      const correct = isCorrect(head.task, JSON.parse(target), predicted.value.predictions[i], outOfScopeLabel);
      if (correct !== null) outcomes[i]?.push({ head: name, version: head.version, isCorrect: correct });
    }
  }
  return outcomes;
}

async function listJudged({ env, tenant }: TenantRequest, name: string, version: number | null): Promise<ServedHead[]> {
  const lease = await getHeadLease(env, tenant, name, null);
  const judged = lease.ok
    ? [lease.value.head, ...lease.value.shares.map(({ head }) => head), ...lease.value.shadow]
    : [];
  if (version !== null && !judged.some((head) => head.version === version)) {
    const lease = await getHeadLease(env, tenant, name, version);
    if (lease.ok) judged.push(lease.value.head);
  }
  return [...new Map(judged.map((head) => [head.version, head])).values()];
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
