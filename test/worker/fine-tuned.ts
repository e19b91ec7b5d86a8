/** Fine-tuned backbones of the tests: layers over text-static-1 that a job's attempt uploads with its head. */
import { expect } from "vitest";
import { decodeDelta, encodeDelta, fineTunedBackbone } from "../../src/backbones/fine-tuned-static.ts";
import { textStatic } from "../../src/backbones/workerd.ts";
import { decodeHead, encodeHead } from "../../src/core/codec.ts";
import { seededRandom } from "../../src/core/random.ts";
import {
  type attemptClient,
  comparisons,
  describeArtifact,
  getTrainedHead,
  makeManifest,
  startJob,
  waitForJob,
} from "./fake-batch-endpoint.ts";

export const model = "text-static-1";
export const FILTERS = 8;
const NAMES = ["refund", "parcel", "password", "invoice"];

/** Layers of numbers that a seed gives; `change` makes them wrong. */
export function makeDelta(
  seed: number,
  overrides: Partial<Parameters<typeof encodeDelta>[0]> = {},
): Uint8Array<ArrayBuffer> {
  const random = seededRandom(seed);
  const { id, revision, dimensions } = textStatic;
  const randomFloats = (count: number) => Float32Array.from({ length: count }, () => random() - 0.5);
  const fields = {
    base: { id, revision },
    dimensions,
    scale: 1,
    vocabulary: NAMES,
    rows: randomFloats(NAMES.length * dimensions),
    kernel: randomFloats(FILTERS * 3 * dimensions),
    bias: randomFloats(FILTERS),
  };
  return new Uint8Array(encodeDelta({ ...fields, ...overrides }));
}

/** What these layers make of texts, without the Worker. */
export async function embedWith(bytes: Uint8Array, texts: readonly string[]): Promise<number[][]> {
  const delta = decodeDelta(bytes);
  if (delta === null) throw new Error("These are no layers.");
  const backbone = fineTunedBackbone(textStatic, { id: "any", revision: "any" }, delta, bytes.length);
  return (await backbone.embed(texts)).rows.map((row) => Array.from(row ?? []));
}

/** A head on such a backbone, which adds to what the frozen one of the tests says what the filters found. */
export async function makeFineTunedHead(filters = FILTERS) {
  const frozen = await getTrainedHead();
  const head = decodeHead(frozen.bytes);
  if (head === null) throw new Error("This is no head.");
  const dimensions = head.dimensions + filters;
  const weights = new Float32Array(head.bias.length * dimensions).fill(0.01);
  head.bias.forEach((_, k) => {
    weights.set(head.weights.subarray(k * head.dimensions, (k + 1) * head.dimensions), k * dimensions);
  });
  return { bytes: encodeHead({ ...head, dimensions, weights }), head: frozen.head };
}

/** What an attempt tells of a head and of the layers that it stands on. */
export async function makeFineTunedManifest(delta: Uint8Array, filters = FILTERS) {
  const trainedHead = await makeFineTunedHead(filters);
  const dimensions = textStatic.dimensions + filters;
  const backbone = { artifact: describeArtifact(delta), parameters: 1000, dimensions };
  return { made: trainedHead, manifest: { ...makeManifest(trainedHead, "fine_tuned"), backbone } };
}

type Attempt = ReturnType<typeof attemptClient>;

/** A further job of a tenant's, which is judged to be better; `judged` says otherwise. */
export async function startEvaluatedJob(
  owner: { id: string; key: string },
  job: object = {},
  verdict: keyof typeof comparisons = "better",
): Promise<{ attempt: Attempt; job: string }> {
  const running = await startJob(owner, { head: "support", trainable: undefined, ...job });
  await running.attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons[verdict] });
  return running;
}

/** Has a tenant's job make these layers and a head on them; answers the job as it has ended. */
export async function runFineTuning(
  owner: { id: string; key: string },
  delta: Uint8Array<ArrayBuffer>,
  job: object = {},
) {
  const { attempt, job: id } = await startEvaluatedJob(owner, job);
  await finishAttempt(attempt, delta);
  return waitForJob(owner.key, id, "succeeded");
}

/** Ends an attempt by these layers and a head on them. */
export async function finishAttempt(attempt: Attempt, delta: Uint8Array<ArrayBuffer>) {
  const { made, manifest } = await makeFineTunedManifest(delta);
  for (const bytes of [delta, made.bytes]) expect((await attempt.uploadArtifact(bytes)).status).toBe(200);
  return attempt.sendAcceptedMessage({ type: "finished", manifest: manifest as never });
}
