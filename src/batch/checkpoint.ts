/**
 * The stages that an attempt has done, from which another goes on:
 *
 *   "GBC1" | u32 length of JSON | JSON, padded with spaces to a multiple of 4 | embeddings f32 | heads, as core/codec.ts stores them
 *
 * Numbers are little-endian. The JSON says what the stages are of; of anything else they are no use.
 */
import { createHash } from "node:crypto";
import type { Candidate, Judgement, Manifest, Submission } from "../jobs/protocol.ts";
import { makeRows, type Rows } from "./rows.ts";

const MAGIC = 0x31434247;

export interface Stages {
  /** Of the first texts, or of all of them. A local backbone's are not kept: they cost less than their transfer. */
  embeddings: Rows | null;
  /** Trained without the held-out rows; null: that cannot be. */
  heads: { [of in Candidate]?: Uint8Array | null };
  judgement: Judgement | null;
  /** Trained on all rows. */
  fitted: (Pick<Manifest, "candidate" | "training" | "evaluation"> & { readonly head: Uint8Array }) | null;
}

export function noStages(): Stages {
  return { embeddings: null, heads: {}, judgement: null, fitted: null };
}

/** Names what stages are of: the data, and all of the submission that changes what comes of them. */
export function nameOf(submission: Submission, digest: string): string {
  const { task, modality, backbone, dimensions, out_of_scope_label, trainable } = submission;
  const { hyperparameters, evaluation, edge_budget } = submission;
  const data = [digest, task, modality, backbone, dimensions, out_of_scope_label];
  const all = JSON.stringify([data, trainable, hyperparameters, evaluation, edge_budget]);
  return createHash("sha256").update(all).digest("hex");
}

interface Header {
  readonly of: string;
  readonly embeddings: number;
  /** Each head's bytes, in their order; null as in `Stages`. */
  readonly heads: readonly (readonly [Candidate, number | null])[];
  readonly judgement: Judgement | null;
  readonly fitted: (Pick<Manifest, "candidate" | "training" | "evaluation"> & { readonly bytes: number }) | null;
}

/** The checkpoint in parts, one after another; null where there is nothing to keep. */
export function encodeStages(stages: Stages, of: string): Uint8Array[] | null {
  const { judgement, fitted } = stages;
  // What comes after it makes a stage needless.
  const heads = judgement === null ? (Object.entries(stages.heads) as [Candidate, Uint8Array | null][]) : [];
  const embeddings = fitted === null ? stages.embeddings : null;
  const rows = embeddings?.count() ?? 0;
  if (rows === 0 && heads.length === 0 && judgement === null) return null;
  const header: Header = {
    of,
    embeddings: rows,
    heads: heads.map(([candidate, head]) => [candidate, head?.length ?? null]),
    judgement,
    fitted: fitted && { ...without(fitted), bytes: fitted.head.length },
  };
  const json = Buffer.from(JSON.stringify(header));
  const padded = Math.ceil(json.length / 4) * 4;
  const start = Buffer.alloc(8 + padded, " ");
  start.writeUInt32LE(MAGIC, 0);
  start.writeUInt32LE(padded, 4);
  json.copy(start, 8);
  const bytes = [...heads.map(([, head]) => head), fitted?.head ?? null].filter((head) => head !== null);
  return [start, ...(embeddings?.bytes() ?? []), ...bytes];
}

function without({ head: _, ...rest }: NonNullable<Stages["fitted"]>) {
  return rest;
}

/** The stages in a checkpoint, or null where it is none, is not whole, or is of something else. */
export function decodeStages(bytes: Buffer, of: string, dimensions: number): Stages | null {
  if (bytes.length < 8 || bytes.readUInt32LE(0) !== MAGIC) return null;
  let at = 8 + bytes.readUInt32LE(4);
  const header = parse(bytes.subarray(8, at));
  if (header?.of !== of) return null;
  const floats = header.embeddings * dimensions;
  const sizes = [...header.heads.map(([, size]) => size ?? 0), header.fitted?.bytes ?? 0];
  if (bytes.length !== at + 4 * floats + sizes.reduce((sum, size) => sum + size, 0)) return null;
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
  const heads = Object.fromEntries(
    header.heads.map(([candidate, size]) => [candidate, size === null ? null : take(size)]),
  );
  const { fitted, judgement } = header;
  if (fitted === null) return { embeddings, heads, judgement, fitted };
  const { bytes: size, ...rest } = fitted;
  return { embeddings, heads, judgement, fitted: { ...rest, head: take(size) } };
}

function parse(json: Buffer): Header | null {
  try {
    return JSON.parse(json.toString()) as Header;
  } catch {
    return null;
  }
}
