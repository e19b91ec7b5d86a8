/**
 * A training's state in a file, from which an interrupted training resumes:
 *
 *   header   4,096 bytes: the fingerprint, a line of JSON; the number of steps done, a line; padding with spaces
 *   state    the memory of the table and the heads
 */
import { closeSync, existsSync, openSync, readSync, renameSync, writeSync } from "node:fs";
import { UsageError } from "../lib/usage-error.ts";
import type { Corpus, TableShape } from "./corpus.ts";
import type { Layout } from "./layout.ts";
import type { Hyperparameters } from "./trainer.ts";

const HEADER_BYTES = 4_096;
/** How many bytes are read or written at once. */
const CHUNK_BYTES = 1 << 26;

/** A training can resume another one's checkpoint if both have the same fingerprint. */
export function trainingFingerprint(corpus: Corpus, shape: TableShape, hyperparameters: Hyperparameters): string {
  const sources = corpus.sources.map(({ name, share, left }) => [name, share, left.length]);
  const words = [corpus.texts.members.length, corpus.wordRows.members.length];
  return JSON.stringify({ shape, hyperparameters, sources: hash(JSON.stringify(sources)), words });
}

/** FNV-1a over UTF-16 code units. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 0;
}

/** All that a training changes: the table and the heads, each with Adam's means and squares. */
function stateBytes(memory: WebAssembly.Memory, layout: Layout): Uint8Array {
  return new Uint8Array(memory.buffer, layout.table, layout.wordVectors - layout.table);
}

/**
 * Restores a checkpoint's state and returns how many steps were done; 0 if there is no file. Throws a UsageError if the
 * file belongs to another training or is incomplete.
 */
export function readCheckpoint(file: string, fingerprint: string, memory: WebAssembly.Memory, layout: Layout): number {
  if (!existsSync(file)) return 0;
  const descriptor = openSync(file, "r");
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    readSync(descriptor, header);
    const [first = "", steps = ""] = header.toString("utf8").split("\n");
    if (first !== fingerprint)
      throw new UsageError(`The checkpoint '${file}' is of another training. Remove it to begin anew.`);
    const target = stateBytes(memory, layout);
    // The file functions cannot read into shared memory.
    const chunk = Buffer.alloc(Math.min(CHUNK_BYTES, target.length));
    for (let read = 0; read < target.length; ) {
      const count = readSync(descriptor, chunk, 0, Math.min(chunk.length, target.length - read), null);
      if (count === 0) throw new UsageError(`The checkpoint '${file}' is not whole. Remove it to begin anew.`);
      target.set(chunk.subarray(0, count), read);
      read += count;
    }
    return Number(steps);
  } finally {
    closeSync(descriptor);
  }
}

/** Writes under another name and then renames: an interrupted write leaves the previous checkpoint as it is. */
export function writeCheckpoint(
  file: string,
  fingerprint: string,
  steps: number,
  memory: WebAssembly.Memory,
  layout: Layout,
): void {
  const descriptor = openSync(`${file}.new`, "w");
  try {
    writeSync(descriptor, Buffer.from(`${fingerprint}\n${steps}\n`.padEnd(HEADER_BYTES)));
    const source = stateBytes(memory, layout);
    for (let written = 0; written < source.length; )
      written += writeSync(descriptor, Buffer.from(source.subarray(written, written + CHUNK_BYTES)));
  } finally {
    closeSync(descriptor);
  }
  renameSync(`${file}.new`, file);
}
