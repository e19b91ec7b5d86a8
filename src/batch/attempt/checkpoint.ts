/**
 * The stages that an attempt has done, from which another goes on:
 *
 *   "GBC2" | u32 length of JSON | JSON, padded with spaces to a multiple of 4 | embeddings f32 | heads and deltas, as they are stored
 *
 * Numbers are little-endian. The JSON says what the stages are of; of anything else they are no use.
 */
import { createHash } from "node:crypto";
import type { Candidate, Comparison } from "../../core/evaluation/comparison.ts";
import type { EvaluationResult } from "../../core/evaluation/evaluation.ts";
import type { Plan } from "../../finetune/train.ts";
import type { Manifest, Submission } from "../../jobs/protocol.ts";
import { type EmbeddingMatrix, makeEmbeddingMatrix } from "./embedding-matrix.ts";

const MAGIC = 0x32434247;

/** What a training made: a head, and where layers were trained their delta and what the held-out examples told of it. */
export interface TrainedCandidate {
  readonly head: Uint8Array;
  readonly delta: Uint8Array | null;
  readonly plan: Plan | null;
}

/** What judging the fine-tuned candidate told, for the one that is trained on all rows. */
export interface FineTunedAssessment {
  readonly plan: Plan;
  readonly assessment: Omit<EvaluationResult, "conformal"> & { readonly conformal: readonly number[] };
}

type FinalModel = Pick<Manifest, "candidate" | "training" | "evaluation"> & {
  /** How many numbers of the backbone were trained. */
  readonly parameters: number;
  readonly head: Uint8Array;
  readonly delta: Uint8Array | null;
};

export interface Checkpoint {
  /** Of the first texts, or of all of them. A local backbone's are not kept: they cost less than their transfer. */
  embeddings: EmbeddingMatrix | null;
  /** Trained without the held-out rows; null: that cannot be. */
  candidates: { [candidate in Candidate]?: TrainedCandidate | null };
  comparison: Comparison | null;
  /** null where no layers were judged. */
  fineTunedAssessment: FineTunedAssessment | null;
  /** Trained on all rows. */
  finalModel: FinalModel | null;
}

export function emptyCheckpoint(): Checkpoint {
  return { embeddings: null, candidates: {}, comparison: null, fineTunedAssessment: null, finalModel: null };
}

/** Names what stages are of: the data, and all of the submission that changes what comes of them. */
export function submissionFingerprint(submission: Submission, digest: string): string {
  const { task, modality, backbone, dimensions, out_of_scope_label, trainable } = submission;
  const { hyperparameters, evaluation, edge_budget } = submission;
  const data = [digest, task, modality, backbone, dimensions, out_of_scope_label];
  const all = JSON.stringify([data, trainable, hyperparameters, evaluation, edge_budget]);
  return createHash("sha256").update(all).digest("hex");
}

/** Lengths stand for bytes. */
interface Header {
  readonly of: string;
  readonly embeddings: number;
  readonly made: readonly (readonly [Candidate, (Pick<TrainedCandidate, "plan"> & Lengths) | null])[];
  readonly judgement: Comparison | null;
  readonly told: FineTunedAssessment | null;
  readonly fitted: (Omit<FinalModel, "head" | "delta"> & Lengths) | null;
}
interface Lengths {
  readonly head: number;
  readonly delta: number | null;
}

/** The checkpoint in parts, one after another; null where there is nothing to keep. */
export function encodeCheckpoint(checkpoint: Checkpoint, fingerprint: string): Uint8Array[] | null {
  const { comparison, fineTunedAssessment, finalModel } = checkpoint;
  // What comes after it makes a stage needless.
  const candidates =
    comparison === null ? (Object.entries(checkpoint.candidates) as [Candidate, TrainedCandidate | null][]) : [];
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
    made: candidates.map(([candidate, each]) => [candidate, each && { plan: each.plan, ...lengths(each) }]),
    judgement: comparison,
    told: fineTunedAssessment,
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

/** The stages in a checkpoint, or null where it is none, is not whole, or is of something else. */
export function decodeCheckpoint(bytes: Buffer, fingerprint: string, dimensions: number): Checkpoint | null {
  if (bytes.length < 8 || bytes.readUInt32LE(0) !== MAGIC) return null;
  let offset = 8 + bytes.readUInt32LE(4);
  const header = parse(bytes.subarray(8, offset));
  if (header?.of !== fingerprint) return null;
  const { judgement: comparison, told: fineTunedAssessment, fitted } = header;
  const lengths = [...header.made.map(([, each]) => each), fitted].map(
    (each) => (each?.head ?? 0) + (each?.delta ?? 0),
  );
  const floats = header.embeddings * dimensions;
  if (bytes.length !== offset + 4 * floats + lengths.reduce((sum, size) => sum + size, 0)) return null;
  const embeddings = makeEmbeddingMatrix(dimensions);
  for (let row = 0; row < header.embeddings; row++) {
    // A copy of its own: a row of floats begins at a multiple of four, which one in a buffer of Node's may not.
    embeddings.push(new Float32Array(new Uint8Array(bytes.subarray(offset, offset + 4 * dimensions)).buffer));
    offset += 4 * dimensions;
  }
  const take = (size: number) => {
    offset += size;
    return new Uint8Array(bytes.subarray(offset - size, offset));
  };
  const takeBoth = ({ head, delta }: Lengths) => ({ head: take(head), delta: delta === null ? null : take(delta) });
  const candidates = Object.fromEntries(
    header.made.map(([candidate, each]) => [candidate, each && { plan: each.plan, ...takeBoth(each) }]),
  );
  return {
    embeddings,
    candidates,
    comparison,
    fineTunedAssessment,
    finalModel: fitted && { ...fitted, ...takeBoth(fitted) },
  };
}

function parse(json: Buffer): Header | null {
  try {
    return JSON.parse(json.toString()) as Header;
  } catch {
    return null;
  }
}
