/** A trained head as bytes and as the record of its version. */
import type { DescribedLabel } from "../api/heads.ts";
import { encodeHead } from "../core/codec.ts";
import type { Evaluation } from "../core/evaluation/evaluation.ts";
import { fail, type Result } from "../core/failure.ts";
import { countParameters, type Head } from "../core/head.ts";
import { limits } from "../core/limits.ts";
import { parsePrices, trainingPrice } from "../core/prices.ts";
import { sha256Hex } from "../lib/hash.ts";
import { hasVocabulary } from "../serving/backbones.ts";
import { storeBytes } from "../store/content-addressed.ts";
import { headKey } from "../store/keys.ts";
import type { NewHead } from "../tenant/heads/heads.ts";
import type { ComparedTraining } from "./compare.ts";
import type { RequestTraining } from "./run.ts";

/** A head that was trained in a request. `milliseconds` is how long that took. */
export function toHeadRecord(
  env: Cloudflare.Env,
  result: RequestTraining & Pick<ComparedTraining, "candidates" | "backbone">,
  {
    labels: described = [],
    ...head
  }: Pick<NewHead, "id" | "modality" | "backbone" | "dataset"> & { readonly labels?: readonly DescribedLabel[] },
  milliseconds: number,
): { readonly bytes: Uint8Array; readonly record: NewHead } {
  const bytes = encodeHead(result.head);
  const { task, labels, dimensions, valueRange } = result.head;
  const { examples, iterations, converged, objective, l2, temperature, lexical } = result.training;
  const training = { examples, iterations, converged, objective, l2, temperature, lexical, milliseconds };
  const record: NewHead = {
    ...head,
    task,
    labels,
    dimensions,
    training: {
      // Of examples alone: the texts of labels do not count.
      method: examples === 0 ? "zero_shot" : "head",
      ...training,
      ...describeCost(env, "edge", result.operations, result.head, {
        trained: 0,
        total: result.backbone?.parameters ?? 0,
      }),
      ...describeRange(valueRange),
      ...describeCandidates(result.candidates),
      ...(described.length === 0 ? {} : { labels: [...described] }),
    },
    evaluation: withUnknownWords(result),
    sha256: sha256Hex(bytes),
    bytes: bytes.length,
  };
  return { bytes, record };
}

/** The evaluation, with the words that a backbone with a vocabulary does not know. */
function withUnknownWords({
  evaluation,
  backbone,
  unknownWords,
}: Pick<ComparedTraining, "evaluation" | "backbone" | "unknownWords">): Evaluation {
  const { held_out_inputs: inputs } = evaluation;
  if (inputs === undefined || unknownWords === null || !hasVocabulary(backbone)) return evaluation;
  return { ...evaluation, held_out_inputs: { ...inputs, unknown_words: unknownWords } };
}

function describeCandidates(candidates: ComparedTraining["candidates"]): Pick<NewHead["training"], "candidates"> {
  return candidates.length === 0 ? {} : { candidates: [...candidates] };
}

/**
 * What a training has trained and cost, as a head's record shows it.
 *
 * @param backbone how many parameters it has, and how many of them were trained
 */
export function describeCost(
  env: Cloudflare.Env,
  place: "edge" | "batch",
  operations: number,
  head: Head,
  backbone: { readonly trained: number; readonly total: number },
): Required<Pick<NewHead["training"], "trained_parameters" | "total_parameters" | "operations" | "usd">> {
  const prices = parsePrices(env.PRICES);
  if (!prices.ok) throw new Error(prices.failure.message);
  const parameters = countParameters(head);
  return {
    trained_parameters: backbone.trained + parameters,
    total_parameters: backbone.total + parameters,
    operations: Math.ceil(operations),
    usd: trainingPrice(place, operations, prices.value),
  };
}

/** The range to which a head clamps, as its record shows it. */
export function describeRange(range: Head["valueRange"]): { value_range?: [number, number] } {
  return range === null ? {} : { value_range: [...range] };
}

/** Stores a head that was trained here or at a batch endpoint: first its bytes, then its record by `commit`. */
export async function storeHead<T>(
  bucket: R2Bucket,
  tenantId: string,
  bytes: Uint8Array,
  record: NewHead,
  commit: (head: NewHead) => Promise<Result<T>>,
): Promise<Result<T>> {
  const { sha256 } = record;
  const size = Buffer.byteLength(JSON.stringify(record));
  if (size > limits.head_record_bytes) {
    const limit = limits.head_record_bytes;
    const message = `A head's labels and evaluation have at most ${limit} bytes as JSON; these have ${size}. Use fewer or shorter labels.`;
    return fail("limit_exceeded", message, { details: { limit, actual: size } });
  }
  const storeAndCommit = async () => {
    const stored = await storeBytes(bucket, headKey(tenantId, sha256), bytes).then(
      () => true,
      () => false,
    );
    if (stored) return commit(record);
    return fail("storage_unavailable", "The head's weights could not be stored. Train again.", { retryAfter: 5 });
  };
  const first = await storeAndCommit();
  // A deleted head with the same bytes may have been swept in between, so try once more.
  const result = first.ok || first.failure.code !== "storage_unavailable" ? first : await storeAndCommit();
  // The tenant is gone, and no version needs these bytes: nothing else would delete them.
  if (!result.ok && result.failure.code === "not_found")
    await bucket.delete(headKey(tenantId, sha256)).catch(() => undefined);
  return result;
}
