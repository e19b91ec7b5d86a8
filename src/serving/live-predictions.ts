/**
 * Predictions on live inputs: each input goes to the version that its hash chooses, shadow versions predict it after the
 * answer, and all of it is counted.
 */
import { createHash } from "node:crypto";
import type { Input } from "../api/examples.ts";
import type { Prediction } from "../api/predictions.ts";
import { ok, type Result } from "../core/failure.ts";
import { chooseShare } from "../core/lifecycle/traffic.ts";
import { comparedText } from "../ingest/example.ts";
import type { HeadLease, ServedHead } from "../tenant/heads/served-heads.ts";
import { captureInputs } from "./capture.ts";
import { countAgreement, countPredictions, countShed } from "./meter.ts";
import { checkLimits, type PredictedInputs, type PredictOptions, predictInputs } from "./predict.ts";
import type { TenantRequest } from "./tenant-request.ts";

/** Inputs of all requests that the shadow versions of an isolate predict at once. Further ones are shed. */
const MAX_SHADOW_INPUTS = 128;
let openShadowInputs = 0;

export interface LivePredictions {
  /** The version of the first input. */
  readonly version: number;
  readonly predictions: readonly Prediction[];
  /** Whether no shift of the inputs of a version that answered is noticed. */
  readonly isCoveragePromised: boolean;
}

/** One prediction per input, in their order. `paramAt` is the path of an input in the request. */
export async function predictLive(
  request: TenantRequest,
  lease: HeadLease,
  inputs: readonly Input[],
  paramAt: (index: number) => string,
  options: PredictOptions = {},
): Promise<Result<LivePredictions>> {
  const groups = groupByVersion(lease, inputs);
  // Of all inputs together: each version checks its own.
  const limitFailure = checkLimits(lease.head, inputs.length, options);
  if (limitFailure) return { ok: false, failure: limitFailure };
  const predictions: Prediction[] = [];
  const answers: Answer[] = [];
  for (const { head, indices } of groups) {
    const own = indices === null ? inputs : indices.map((index) => inputs[index] as Input);
    const inputIndex = (i: number) => indices?.[i] ?? i;
    const predicted = await predictInputs(request, head, own, (i) => paramAt(inputIndex(i)), options);
    if (!predicted.ok) return predicted;
    for (const [i, prediction] of predicted.value.predictions.entries())
      predictions[inputIndex(i)] =
        indices === null ? prediction : { ...prediction, index: inputIndex(i), version: head.version };
    answers.push({ head, inputs: own, ...predicted.value });
  }
  // All are counted or none: a request that fails is sent again.
  for (const { head, counted } of answers) countPredictions(request, head, false, counted);
  const { capture } = lease;
  if (capture !== null)
    for (const answer of answers) captureInputs(request, capture, answer.head, answer.inputs, answer);
  for (const shadow of lease.shadow) for (const answer of answers) startShadow(request, shadow, answer, options);
  return ok({
    version: groups[0]?.head.version ?? lease.head.version,
    predictions,
    isCoveragePromised: groups.every(({ head }) => !head.isShifted),
  });
}

interface Group {
  readonly head: ServedHead;
  /** Null for all inputs. */
  readonly indices: readonly number[] | null;
}

/** The inputs of each version; that of the first input comes first. */
function groupByVersion({ head, shares }: HeadLease, inputs: readonly Input[]): Group[] {
  const [first, ...others] = shares;
  if (first === undefined) return [{ head, indices: null }];
  const groups = new Map<number, { head: ServedHead; indices: number[] }>();
  for (const [index, input] of inputs.entries()) {
    const { head: chosen } = chooseShare([first, ...others], hashInput(head.id, input));
    const group = groups.get(chosen.version) ?? { head: chosen, indices: [] };
    group.indices.push(index);
    groups.set(chosen.version, group);
  }
  return [...groups.values()];
}

/** A number in [0, 1) for an input: the same for texts that training takes for one, another for each head. */
function hashInput(head: string, input: Input): number {
  const hash = createHash("sha256").update(`${head}:`);
  if (typeof input === "string") hash.update(comparedText(input));
  else if ("text" in input) hash.update(comparedText(input.text));
  else if ("embedding" in input) hash.update(Buffer.from(Float32Array.from(input.embedding).buffer));
  return hash.digest().readUInt32BE() / 2 ** 32;
}

interface Answer extends PredictedInputs {
  readonly head: ServedHead;
  readonly inputs: readonly Input[];
}

/** Has a shadow version predict inputs after the answer, as many as there is room for. */
function startShadow(request: TenantRequest, shadow: ServedHead, answer: Answer, options: PredictOptions): void {
  if (shadow.version === answer.head.version) return;
  const room = Math.max(0, Math.min(answer.inputs.length, MAX_SHADOW_INPUTS - openShadowInputs));
  if (room < answer.inputs.length) countShed(request, shadow, answer.inputs.length - room);
  if (room === 0) return;
  openShadowInputs += room;
  const work = runShadow(request, shadow, answer, room, options).finally(() => {
    openShadowInputs -= room;
  });
  request.waitUntil(work);
}

async function runShadow(
  request: TenantRequest,
  shadow: ServedHead,
  { head, inputs, predictions, embedded }: Answer,
  count: number,
  { truncate, threshold, out_of_scope_threshold }: PredictOptions,
): Promise<void> {
  // The answer goes out first.
  await scheduler.wait(0);
  const options = {
    ...(truncate === undefined ? {} : { truncate }),
    ...(threshold === undefined ? {} : { threshold }),
    ...(out_of_scope_threshold === undefined ? {} : { out_of_scope_threshold }),
  };
  const rows = { ...embedded, rows: embedded.rows.slice(0, count) };
  const predicted = await predictInputs(request, shadow, inputs.slice(0, count), String, options, rows);
  if (!predicted.ok) return;
  countPredictions(request, shadow, true, predicted.value.counted);
  if (shadow.task === "regression") return;
  const agreed = predicted.value.predictions.filter((own, i) => agree(own, predictions[i])).length;
  countAgreement(request, shadow, head.version, { inputs: count, agreed });
}

function agree(a: Prediction, b: Prediction | undefined): boolean {
  if (a.labels === undefined || b?.labels === undefined) return a.label === b?.label;
  return a.labels.length === b.labels.length && new Set([...a.labels, ...b.labels]).size === a.labels.length;
}
