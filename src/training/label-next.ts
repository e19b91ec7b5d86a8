/** Which inputs of a pool to label next, by the head that serves and the embeddings that it predicts from. */
import type { Input } from "../api/examples.ts";
import type { InputsToLabel } from "../api/label-next.ts";
import type { Prediction } from "../api/predictions.ts";
import { type Failure, fail, ok, type Result } from "../core/failure.ts";
import { type Head, thresholdOf } from "../core/head.ts";
import { type Choice, chooseInputs, type PoolPrediction } from "../core/label-next.ts";
import { runSteps } from "../core/steps.ts";
import { inputKey } from "../ingest/example.ts";
import { getHeadLease } from "../serving/active-heads.ts";
import { predictInputs } from "../serving/predict.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import { getHead } from "../store/heads.ts";
import type { ServedHead } from "../tenant/heads/served-heads.ts";
import { OPERATIONS_PER_YIELD, type RunState, withRunState } from "./run.ts";
import { testSlot } from "./test-set.ts";

/** Chooses at most `count` inputs, each once, also where it was sent twice. Takes the place of a test of this isolate. */
export async function labelNext(
  request: TenantRequest,
  name: string,
  inputs: readonly Input[],
  count: number,
): Promise<Result<InputsToLabel>> {
  const lease = await getHeadLease(request.env, request.tenant, name, null);
  if (!lease.ok) return lease;
  const served = lease.value.head;
  const { task } = served;
  if (task === "regression")
    return fail("task_mismatch", `Head '${name}' predicts values, and so has no probabilities to choose inputs by.`);
  return withRunState(request, async (state) => {
    const busy = await state.slots.acquire(testSlot);
    return busy === null ? choose(request, state, { ...served, task }, inputs, count) : { ok: false, failure: busy };
  });
}

async function choose(
  request: TenantRequest,
  { slots, tensors }: RunState,
  served: ServedHead & { readonly task: "single_label" | "multi_label" },
  inputs: readonly Input[],
  count: number,
): Promise<Result<InputsToLabel>> {
  const { env, tenant } = request;
  const { task, id, version } = served;
  const indices = firstOfEach(inputs.map(inputKey));
  const pool = indices.map((index) => inputs[index] as Input);
  const options = { top_k: task === "single_label" ? 2 : Math.max(1, served.labelCount) };
  const predicted = await predictInputs(request, served, pool, (i) => `inputs[${indices[i]}]`, options);
  if (!predicted.ok) return { ok: false, failure: inThisRequest(predicted.failure) };
  const head = await getHead(env.KV, env.BUCKET, tenant, served.sha256);
  if (head === null)
    return fail("storage_unavailable", "The head's weights could not be read. Try again.", { retryAfter: 5 });
  const predictions = toPoolPredictions(head, predicted.value.predictions);
  const steps = chooseInputs(tensors, task, predicted.value.embedded.rows, predictions, count);
  const pause = async (): Promise<readonly Choice[] | undefined> => {
    await scheduler.wait(0);
    return slots.stopReason === null ? undefined : [];
  };
  const { value } = await runSteps(steps, OPERATIONS_PER_YIELD, pause);
  if (slots.stopReason !== null) return { ok: false, failure: slots.stopReason };
  const data = value.map(({ index, ...choice }) => ({
    index: indices[index] as number,
    input: pool[index] as Input,
    ...choice,
  }));
  return ok({ object: "list", model: `${id}@${version}`, data });
}

/** The index of each key where it comes first. */
function firstOfEach(keys: readonly string[]): number[] {
  const first = new Map<string, number>();
  for (const [index, key] of keys.entries()) if (!first.has(key)) first.set(key, index);
  return [...first.values()];
}

/** A prediction names what it was sent 'input'. */
function inThisRequest(failure: Failure): Failure {
  return failure.param === "input" ? { ...failure, param: "inputs" } : failure;
}

function toPoolPredictions(head: Head, predictions: readonly Prediction[]): PoolPrediction[] {
  const thresholds = new Map(head.labels.map((label, k) => [label, thresholdOf(head, k)]));
  return predictions.map(({ scores = [], in_scope = null, scope_score = null }) => ({
    scores: scores.map(({ label, score }) => ({ label, score, threshold: thresholds.get(label) ?? 0 })),
    inScope: in_scope,
    scopeScore: scope_score,
  }));
}
