/**
 * The results that an attempt has so far, as bytes from which the next attempt goes on:
 *
 *   "GBC2" | u32 length of JSON | JSON, padded with spaces to a multiple of 4 | embeddings f32
 *          | heads and deltas, as they are stored | the arrays of a training's state f32
 *
 * Numbers are little-endian. The JSON has a fingerprint of the job and its data: the results are of use for these alone.
 */
import { createHash } from "node:crypto";
import type { Candidate, Comparison } from "../../core/evaluation/comparison.ts";
import type { EvaluationResult } from "../../core/evaluation/evaluation.ts";
import type { ScopeModel } from "../../core/evaluation/scope.ts";
import { comparisonFoldCount } from "../../core/linear/split.ts";
import type { TrainingState } from "../../finetune/encoder/state.ts";
import type { Plan } from "../../finetune/train.ts";
import type { Manifest, Submission } from "../../jobs/protocol.ts";
import { type EmbeddingMatrix, makeEmbeddingMatrix } from "./embedding-matrix.ts";

const MAGIC = 0x32434247;

/** A trained head; if layers were trained, also their delta and the plan of that training. */
export interface TrainedCandidate {
  readonly head: Uint8Array;
  readonly delta: Uint8Array | null;
  readonly plan: Plan | null;
}

/** The candidates that are trained so far on one fold's training rows; null: one that cannot be trained. */
export type FoldCandidates = { readonly [candidate in Candidate]?: TrainedCandidate | null };

export type StoredScope = Omit<ScopeModel, "scores"> & { readonly scores: readonly number[] };

/** The evaluation and calibration of the fine-tuned candidate on the rows of all folds. */
export interface FineTunedAssessment {
  readonly plan: Plan;
  readonly assessment: Omit<EvaluationResult, "conformal" | "confused" | "scope"> & {
    readonly conformal: readonly number[];
    /** Earlier builds have none. The centroids are those of the final model. */
    readonly scope?: StoredScope | null;
  };
}

/** Which training of a job it is: that of a fold, or that on all rows. */
export type TrainingName = number | "refit";

/** A training of layers that has begun, and has not ended. */
export interface OpenTraining {
  readonly name: TrainingName;
  readonly state: TrainingState;
}

/** The winner, trained on all rows. */
export type FinalModel = Pick<Manifest, "candidate" | "training" | "evaluation"> & {
  /** How many numbers of the backbone were trained. */
  readonly parameters: number;
  readonly head: Uint8Array;
  readonly delta: Uint8Array | null;
};

export interface Checkpoint {
  /** Of the first texts or of all; null for a backbone of cost "local", which takes less than to transfer them. */
  embeddings: EmbeddingMatrix | null;
  /** One for each fold that has begun. */
  folds: FoldCandidates[];
  comparison: Comparison | null;
  /** null if no layers were compared. */
  fineTunedAssessment: FineTunedAssessment | null;
  finalModel: FinalModel | null;
  openTraining: OpenTraining | null;
  /** Floating-point operations of all trainings that have ended, and of embedding. */
  operations: number;
}

export function emptyCheckpoint(): Checkpoint {
  return {
    embeddings: null,
    folds: [],
    comparison: null,
    fineTunedAssessment: null,
    finalModel: null,
    openTraining: null,
    operations: 0,
  };
}

/**
 * A hash of all that the results depend on: the data, and the submission without what names the attempt.
 *
 * @param digest of the data
 * @param examples how many there are, which decides the folds
 */
export function submissionFingerprint(submission: Submission, digest: string, examples: number): string {
  const { task, modality, backbone, dimensions, out_of_scope_label, trainable } = submission;
  const { hyperparameters, evaluation, edge_budget, comparison, in_scope_recall, sample } = submission;
  const data = [digest, task, modality, backbone, dimensions, out_of_scope_label];
  const count = comparisonFoldCount(examples);
  // Without cross-fitting, and with two folds, the fingerprint is that of builds that had nothing else.
  const folds = comparison === "cross_fit" ? [comparison, ...(count === 2 ? [] : [count])] : [];
  const scope = in_scope_recall === undefined ? [] : [{ in_scope_recall }];
  const part = sample === undefined ? [] : [{ sample }];
  const all = JSON.stringify([data, trainable, hyperparameters, evaluation, edge_budget, ...folds, ...scope, ...part]);
  return createHash("sha256").update(all).digest("hex");
}

/** A plan as the JSON has it. */
type StoredPlan = Omit<Plan, "totalEpochs"> & { readonly of: number };

const storePlan = ({ totalEpochs, ...rest }: Plan): StoredPlan => ({ of: totalEpochs, ...rest });
const restorePlan = ({ of: totalEpochs, ...rest }: StoredPlan): Plan => ({ totalEpochs, ...rest });

/** The JSON. Lengths stand for the bytes that follow it. */
interface Header {
  readonly of: string;
  readonly embeddings: number;
  readonly made: readonly StoredCandidate[];
  readonly judgement: Comparison | null;
  readonly told: (Omit<FineTunedAssessment, "plan"> & { readonly plan: StoredPlan }) | null;
  readonly fitted: (Omit<FinalModel, "head" | "delta"> & Lengths) | null;
  /** Earlier builds have none, and use no checkpoint that has one. */
  readonly open?: StoredTraining;
  /** Earlier builds have none. */
  readonly operations?: number;
}
/** Without a number, it is of fold 0. */
type StoredCandidate = readonly [
  candidate: Candidate,
  value: ({ readonly plan: StoredPlan | null } & Lengths) | null,
  fold?: number,
];
/** The lengths of the state's arrays, in numbers; then those of the best epoch's snapshot. */
interface StoredTraining {
  readonly name: TrainingName;
  readonly epoch: number;
  readonly steps: number;
  readonly arrays: readonly number[];
  readonly best: { readonly loss: number; readonly plan: StoredPlan; readonly snapshot: readonly number[] } | null;
}
interface Lengths {
  readonly head: number;
  readonly delta: number | null;
}

/** The checkpoint in parts, one after another; null if there are no results. */
export function encodeCheckpoint(checkpoint: Checkpoint, fingerprint: string): Uint8Array[] | null {
  const { comparison, fineTunedAssessment, finalModel } = checkpoint;
  // Once there is a later result, the earlier ones are not needed.
  const candidates = comparison === null ? checkpoint.folds.flatMap(entriesOf) : [];
  const embeddings = finalModel === null ? checkpoint.embeddings : null;
  const rows = embeddings?.count() ?? 0;
  const open = finalModel === null ? checkpoint.openTraining : null;
  if (rows === 0 && candidates.length === 0 && comparison === null && open === null) return null;
  const lengths = ({ head, delta }: Pick<TrainedCandidate, "head" | "delta">) => ({
    head: head.length,
    delta: delta?.length ?? null,
  });
  const header: Header = {
    of: fingerprint,
    embeddings: rows,
    made: candidates.map(([candidate, each, ...fold]) => [
      candidate,
      each && { plan: each.plan && storePlan(each.plan), ...lengths(each) },
      ...fold,
    ]),
    judgement: comparison,
    told: fineTunedAssessment && { ...fineTunedAssessment, plan: storePlan(fineTunedAssessment.plan) },
    fitted: finalModel && { ...finalModel, ...lengths(finalModel) },
    ...(open && { open: storeTraining(open) }),
    ...(checkpoint.operations > 0 && { operations: checkpoint.operations }),
  };
  const json = Buffer.from(JSON.stringify(header));
  const paddedLength = Math.ceil(json.length / 4) * 4;
  const prefix = Buffer.alloc(8 + paddedLength, " ");
  prefix.writeUInt32LE(MAGIC, 0);
  prefix.writeUInt32LE(paddedLength, 4);
  json.copy(prefix, 8);
  const bytes = [...candidates.map(([, each]) => each), finalModel].flatMap((each) => [each?.head, each?.delta]);
  const arrays = open === null ? [] : [...open.state.arrays, ...(open.state.best?.snapshot ?? [])];
  return [
    prefix,
    ...(embeddings?.bytes() ?? []),
    ...bytes.filter((part) => part != null),
    ...arrays.map(({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength)),
  ];
}

/** The results in a checkpoint; null if it is none, is not whole, or is of another job or other data. */
export function decodeCheckpoint(bytes: Buffer, fingerprint: string, dimensions: number): Checkpoint | null {
  if (bytes.length < 8 || bytes.readUInt32LE(0) !== MAGIC) return null;
  let offset = 8 + bytes.readUInt32LE(4);
  const header = parse(bytes.subarray(8, offset));
  if (header?.of !== fingerprint) return null;
  const { judgement: comparison, told, fitted, open } = header;
  const lengths = [...header.made.map(([, each]) => each), fitted].map(
    (each) => (each?.head ?? 0) + (each?.delta ?? 0),
  );
  const arrayLengths = [...(open?.arrays ?? []), ...(open?.best?.snapshot ?? [])];
  const floats = arrayLengths.reduce((sum, length) => sum + length, header.embeddings * dimensions);
  if (bytes.length !== offset + 4 * floats + lengths.reduce((sum, size) => sum + size, 0)) return null;
  const embeddings = makeEmbeddingMatrix(dimensions);
  const take = (size: number) => {
    offset += size;
    return new Uint8Array(bytes.subarray(offset - size, offset));
  };
  // Of a copy, because floats must begin at a multiple of four, and in a Buffer of Node they may not.
  const takeFloats = (length: number) => new Float32Array(take(4 * length).buffer);
  for (let row = 0; row < header.embeddings; row++) embeddings.push(takeFloats(dimensions));
  const takeBoth = ({ head, delta }: Lengths) => ({ head: take(head), delta: delta === null ? null : take(delta) });
  const folds: FoldCandidates[] = [];
  for (const [candidate, each, fold = 0] of header.made) {
    const value = each && { plan: each.plan && restorePlan(each.plan), ...takeBoth(each) };
    folds[fold] = { ...folds[fold], [candidate]: value };
  }
  return {
    embeddings,
    folds,
    comparison,
    fineTunedAssessment: told && { ...told, plan: restorePlan(told.plan) },
    finalModel: fitted && { ...fitted, ...takeBoth(fitted) },
    openTraining: open ? restoreTraining(open, takeFloats) : null,
    operations: header.operations ?? 0,
  };
}

function entriesOf(
  candidates: FoldCandidates,
  fold: number,
): (readonly [candidate: Candidate, value: TrainedCandidate | null, fold?: number])[] {
  const entries = Object.entries(candidates) as [Candidate, TrainedCandidate | null][];
  return entries.map(([candidate, value]) => (fold === 0 ? [candidate, value] : [candidate, value, fold]));
}

function storeTraining({ name, state: { epoch, steps, arrays, best } }: OpenTraining): StoredTraining {
  const lengths = (of: readonly Float32Array[]) => of.map(({ length }) => length);
  const storedBest = best && { ...best, plan: storePlan(best.plan), snapshot: lengths(best.snapshot) };
  return { name, epoch, steps, arrays: lengths(arrays), best: storedBest };
}

function restoreTraining(
  { name, epoch, steps, arrays, best }: StoredTraining,
  takeFloats: (length: number) => Float32Array,
): OpenTraining {
  const restoredArrays = arrays.map(takeFloats);
  const restoredBest = best && { ...best, plan: restorePlan(best.plan), snapshot: best.snapshot.map(takeFloats) };
  return { name, state: { epoch, steps, arrays: restoredArrays, best: restoredBest } };
}

function parse(json: Buffer): Header | null {
  try {
    return JSON.parse(json.toString()) as Header;
  } catch {
    return null;
  }
}
