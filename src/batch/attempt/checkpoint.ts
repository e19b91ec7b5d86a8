/**
 * The stages that an attempt has done, from which another goes on:
 *
 *   "GBC2" | u32 length of JSON | JSON, padded with spaces to a multiple of 4 | embeddings f32 | heads and deltas, as they are stored
 *
 * Numbers are little-endian. The JSON says what the stages are of; of anything else they are no use.
 */
import { createHash } from "node:crypto";
import type { Assessment } from "../../core/evaluation/evaluation.ts";
import type { Plan } from "../../finetune/train.ts";
import type { Candidate, Judgement, Manifest, Submission } from "../../jobs/protocol.ts";
import { makeRows, type Rows } from "./rows.ts";

const MAGIC = 0x32434247;

/** What a training made: a head, and where layers were trained their delta and what the held-out examples told of it. */
export interface Made {
  readonly head: Uint8Array;
  readonly delta: Uint8Array | null;
  readonly plan: Plan | null;
}

/** What judging the fine-tuned candidate told, for the one that is trained on all rows. */
export interface Told {
  readonly plan: Plan;
  readonly assessment: Omit<Assessment, "conformal"> & { readonly conformal: readonly number[] };
}

type Fitted = Pick<Manifest, "candidate" | "training" | "evaluation"> & {
  /** How many numbers of the backbone were trained. */
  readonly parameters: number;
  readonly head: Uint8Array;
  readonly delta: Uint8Array | null;
};

export interface Stages {
  /** Of the first texts, or of all of them. A local backbone's are not kept: they cost less than their transfer. */
  embeddings: Rows | null;
  /** Trained without the held-out rows; null: that cannot be. */
  made: { [of in Candidate]?: Made | null };
  judgement: Judgement | null;
  /** null where no layers were judged. */
  told: Told | null;
  /** Trained on all rows. */
  fitted: Fitted | null;
}

export function noStages(): Stages {
  return { embeddings: null, made: {}, judgement: null, told: null, fitted: null };
}

/** Names what stages are of: the data, and all of the submission that changes what comes of them. */
export function nameOf(submission: Submission, digest: string): string {
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
  readonly made: readonly (readonly [Candidate, (Pick<Made, "plan"> & Lengths) | null])[];
  readonly judgement: Judgement | null;
  readonly told: Told | null;
  readonly fitted: (Omit<Fitted, "head" | "delta"> & Lengths) | null;
}
interface Lengths {
  readonly head: number;
  readonly delta: number | null;
}

/** The checkpoint in parts, one after another; null where there is nothing to keep. */
export function encodeStages(stages: Stages, of: string): Uint8Array[] | null {
  const { judgement, told, fitted } = stages;
  // What comes after it makes a stage needless.
  const made = judgement === null ? (Object.entries(stages.made) as [Candidate, Made | null][]) : [];
  const embeddings = fitted === null ? stages.embeddings : null;
  const rows = embeddings?.count() ?? 0;
  if (rows === 0 && made.length === 0 && judgement === null) return null;
  const lengths = ({ head, delta }: Pick<Made, "head" | "delta">) => ({
    head: head.length,
    delta: delta?.length ?? null,
  });
  const header: Header = {
    of,
    embeddings: rows,
    made: made.map(([candidate, each]) => [candidate, each && { plan: each.plan, ...lengths(each) }]),
    judgement,
    told,
    fitted: fitted && { ...fitted, ...lengths(fitted) },
  };
  const json = Buffer.from(JSON.stringify(header));
  const padded = Math.ceil(json.length / 4) * 4;
  const start = Buffer.alloc(8 + padded, " ");
  start.writeUInt32LE(MAGIC, 0);
  start.writeUInt32LE(padded, 4);
  json.copy(start, 8);
  const bytes = [...made.map(([, each]) => each), fitted].flatMap((each) => [each?.head, each?.delta]);
  return [start, ...(embeddings?.bytes() ?? []), ...bytes.filter((part) => part != null)];
}

/** The stages in a checkpoint, or null where it is none, is not whole, or is of something else. */
export function decodeStages(bytes: Buffer, of: string, dimensions: number): Stages | null {
  if (bytes.length < 8 || bytes.readUInt32LE(0) !== MAGIC) return null;
  let at = 8 + bytes.readUInt32LE(4);
  const header = parse(bytes.subarray(8, at));
  if (header?.of !== of) return null;
  const { judgement, told, fitted } = header;
  const lengths = [...header.made.map(([, each]) => each), fitted].map(
    (each) => (each?.head ?? 0) + (each?.delta ?? 0),
  );
  const floats = header.embeddings * dimensions;
  if (bytes.length !== at + 4 * floats + lengths.reduce((sum, size) => sum + size, 0)) return null;
  const embeddings = makeRows(dimensions);
  for (let row = 0; row < header.embeddings; row++) {
    // A copy of its own: a row of floats begins at a multiple of four, which one in a buffer of Node's may not.
    embeddings.push(new Float32Array(new Uint8Array(bytes.subarray(at, at + 4 * dimensions)).buffer));
    at += 4 * dimensions;
  }
  const take = (size: number) => {
    at += size;
    return new Uint8Array(bytes.subarray(at - size, at));
  };
  const takeBoth = ({ head, delta }: Lengths) => ({ head: take(head), delta: delta === null ? null : take(delta) });
  const made = Object.fromEntries(
    header.made.map(([candidate, each]) => [candidate, each && { plan: each.plan, ...takeBoth(each) }]),
  );
  return { embeddings, made, judgement, told, fitted: fitted && { ...fitted, ...takeBoth(fitted) } };
}

function parse(json: Buffer): Header | null {
  try {
    return JSON.parse(json.toString()) as Header;
  } catch {
    return null;
  }
}
