/** Fine-tuned backbones of the tests: layers over text-static-1 that a job's attempt uploads with its head. */
import { expect } from "vitest";
import { decodeDelta, encodeDelta, fineTunedBackbone } from "../../src/backbones/fine-tuned.ts";
import { textStatic } from "../../src/backbones/workerd.ts";
import { decodeHead, encodeHead } from "../../src/core/codec.ts";
import { seededRandom } from "../../src/core/random.ts";
import { artifactOf, type attemptOf, jobUntil, judgements, manifestOf, startedJob, trainedHead } from "./batch.ts";

export const model = "text-static-1";
export const FILTERS = 8;
const NAMES = ["refund", "parcel", "password", "invoice"];

/** Layers of numbers that a seed gives; `change` makes them wrong. */
export function layers(seed: number, change: Partial<Parameters<typeof encodeDelta>[0]> = {}): Uint8Array<ArrayBuffer> {
  const random = seededRandom(seed);
  const { id, revision, dimensions } = textStatic;
  const numbers = (count: number) => Float32Array.from({ length: count }, () => random() - 0.5);
  const trained = {
    base: { id, revision },
    dimensions,
    scale: 1,
    names: NAMES,
    rows: numbers(NAMES.length * dimensions),
    kernel: numbers(FILTERS * 3 * dimensions),
    bias: numbers(FILTERS),
  };
  return new Uint8Array(encodeDelta({ ...trained, ...change }));
}

/** What these layers make of texts, without the Worker. */
export async function embeddedBy(bytes: Uint8Array, texts: readonly string[]): Promise<number[][]> {
  const delta = decodeDelta(bytes);
  if (delta === null) throw new Error("These are no layers.");
  const backbone = fineTunedBackbone(textStatic, { id: "any", revision: "any" }, delta, bytes.length);
  return (await backbone.embed(texts)).rows.map((row) => Array.from(row ?? []));
}

/** A head on such a backbone, which adds to what the frozen one of the tests says what the filters found. */
export async function headOn(filters = FILTERS) {
  const frozen = await trainedHead();
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
export async function fineTunedManifest(delta: Uint8Array, filters = FILTERS) {
  const made = await headOn(filters);
  const dimensions = textStatic.dimensions + filters;
  const backbone = { artifact: artifactOf(delta), parameters: 1000, dimensions };
  return { made, manifest: { ...manifestOf(made, "fine_tuned"), backbone } };
}

type Attempt = ReturnType<typeof attemptOf>;

/** A further job of a tenant's, which is judged to be better; `judged` says otherwise. */
export async function judgedJob(
  owner: { id: string; key: string },
  job: object = {},
  judged: keyof typeof judgements = "better",
): Promise<{ attempt: Attempt; job: string }> {
  const running = await startedJob(owner, { head: "support", trainable: undefined, ...job });
  await running.attempt.told({ type: "evaluated", judgement: judgements[judged] });
  return running;
}

/** Has a tenant's job make these layers and a head on them; answers the job as it has ended. */
export async function fineTune(owner: { id: string; key: string }, delta: Uint8Array<ArrayBuffer>, job: object = {}) {
  const { attempt, job: id } = await judgedJob(owner, job);
  await finishBy(attempt, delta);
  return jobUntil(owner.key, id, "succeeded");
}

/** Ends an attempt by these layers and a head on them. */
export async function finishBy(attempt: Attempt, delta: Uint8Array<ArrayBuffer>) {
  const { made, manifest } = await fineTunedManifest(delta);
  for (const bytes of [delta, made.bytes]) expect((await attempt.put(bytes)).status).toBe(200);
  return attempt.told({ type: "finished", manifest: manifest as never });
}
