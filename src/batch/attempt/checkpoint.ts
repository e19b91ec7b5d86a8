/**
 * The results that an attempt has so far, as bytes from which the next attempt goes on:
 *
 *   "GBC2" | u32 length of JSON | JSON, padded with spaces to a multiple of 4 | embeddings f32
 *          | heads and deltas, as they are stored
 *
 * Numbers are little-endian. The JSON has a fingerprint of the job and its data: the results are of use for these alone.
 */
import { createHash } from "node:crypto";
import type { Candidate, Comparison } from "../../core/evaluation/comparison.ts";
import type { EvaluationResult } from "../../core/evaluation/evaluation.ts";
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

/** The evaluation and calibration of the fine-tuned candidate on the rows of all folds. */
export interface FineTunedAssessment {
  readonly plan: Plan;
  readonly assessment: Omit<EvaluationResult, "conformal"> & { readonly conformal: readonly number[] };
}

/** The winner, trained on all rows. */
export type FinalModel = Pick<Manifest, "candidate" | "training" | "evaluation"> & {
  /** How many numbers of the backbone were trained. */
  readonly parameters: number;
  readonly head: Uint8Array;
  readonly delta: Uint8Array | null;
};

export interface Checkpoint {
  /** A remote backbone's embeddings, of the first texts or of all. A local backbone's cost less than their transfer. */
  embeddings: EmbeddingMatrix | null;
  /** One for each fold that has begun. */
  folds: FoldCandidates[];
  comparison: Comparison | null;
  /** null if no layers were compared. */
  fineTunedAssessment: FineTunedAssessment | null;
  finalModel: FinalModel | null;
}

export function emptyCheckpoint(): Checkpoint {
  return { embeddings: null, folds: [], comparison: null, fineTunedAssessment: null, finalModel: null };
}

/** A hash of all that the results depend on: the data, and the submission without what names the attempt. */
export function submissionFingerprint(submission: Submission, digest: string): string {
  const { task, modality, backbone, dimensions, out_of_scope_label, trainable } = submission;
  const { hyperparameters, evaluation, edge_budget, comparison } = submission;
  const data = [digest, task, modality, backbone, dimensions, out_of_scope_label];
  // Without cross-fitting, the fingerprint is that of builds that had none.
  const folds = comparison === "cross_fit" ? [comparison] : [];
  const all = JSON.stringify([data, trainable, hyperparameters, evaluation, edge_budget, ...folds]);
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
}
/** Without a number, it is of fold 0. */
type StoredCandidate = readonly [
  candidate: Candidate,
  value: ({ readonly plan: StoredPlan | null } & Lengths) | null,
  fold?: number,
];
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
  if (rows === 0 && candidates.length === 0 && comparison === null) return null;
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
  };
  const json = Buffer.from(JSON.stringify(header));
  const paddedLength = Math.ceil(json.length / 4) * 4;
  const prefix = Buffer.alloc(8 + paddedLength, " ");
  prefix.writeUInt32LE(MAGIC, 0);
  prefix.writeUInt32LE(paddedLength, 4);
  json.copy(prefix, 8);
  const bytes = [...candidates.map(([, each]) => each), finalModel].flatMap((each) => [each?.head, each?.delta]);
  return [prefix, ...(embeddings?.bytes() ?? []), ...bytes.filter((part) => part != null)];
}

/** The results in a checkpoint; null if it is none, is not whole, or is of another job or other data. */
export function decodeCheckpoint(bytes: Buffer, fingerprint: string, dimensions: number): Checkpoint | null {
  if (bytes.length < 8 || bytes.readUInt32LE(0) !== MAGIC) return null;
  let offset = 8 + bytes.readUInt32LE(4);
  const header = parse(bytes.subarray(8, offset));
  if (header?.of !== fingerprint) return null;
  const { judgement: comparison, told, fitted } = header;
  const lengths = [...header.made.map(([, each]) => each), fitted].map(
    (each) => (each?.head ?? 0) + (each?.delta ?? 0),
  );
  const floats = header.embeddings * dimensions;
  if (bytes.length !== offset + 4 * floats + lengths.reduce((sum, size) => sum + size, 0)) return null;
  const embeddings = makeEmbeddingMatrix(dimensions);
  for (let row = 0; row < header.embeddings; row++) {
    // A copy, because floats must begin at a multiple of four, and in a Buffer of Node they may not.
    embeddings.push(new Float32Array(new Uint8Array(bytes.subarray(offset, offset + 4 * dimensions)).buffer));
    offset += 4 * dimensions;
  }
  const take = (size: number) => {
    offset += size;
    return new Uint8Array(bytes.subarray(offset - size, offset));
  };
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
  };
}

function entriesOf(
  candidates: FoldCandidates,
  fold: number,
): (readonly [candidate: Candidate, value: TrainedCandidate | null, fold?: number])[] {
  const entries = Object.entries(candidates) as [Candidate, TrainedCandidate | null][];
  return entries.map(([candidate, value]) => (fold === 0 ? [candidate, value] : [candidate, value, fold]));
}

function parse(json: Buffer): Header | null {
  try {
    return JSON.parse(json.toString()) as Header;
  } catch {
    return null;
  }
}
