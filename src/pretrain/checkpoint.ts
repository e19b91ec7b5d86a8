/**
 * A training's state in a file, from which it goes on after it was cut off:
 *
 *   4,096 bytes: what the training is, as JSON, a line; the steps done, a line; spaces | the table's and heads' memory
 */
import { closeSync, existsSync, openSync, readSync, renameSync, writeSync } from "node:fs";
import type { Corpus, Shape } from "./corpus.ts";
import type { Layout } from "./layout.ts";
import { Problem } from "./problem.ts";
import type { Hyperparameters } from "./step.ts";

const HEADER = 4_096;
/** Bytes that are read or written at once. */
const PART = 1 << 26;

/** What two trainings must have in common for one to go on where the other was cut off. */
export function fingerprint(corpus: Corpus, shape: Shape, hyperparameters: Hyperparameters): string {
  const sources = corpus.sources.map(({ name, share, left }) => [name, share, left.length]);
  const words = [corpus.texts.members.length, corpus.wordRows.members.length];
  return JSON.stringify({ shape, hyperparameters, sources: hash(JSON.stringify(sources)), words });
}

/** FNV-1a of the UTF-16 code units. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 0;
}

/** What a training changes: the table and the heads, with Adam's means and squares of both. */
function state(memory: WebAssembly.Memory, at: Layout): Uint8Array {
  return new Uint8Array(memory.buffer, at.table, at.wordVectors - at.table);
}

/**
 * Puts a checkpoint's state in place and answers how many steps it has seen, or 0 where there is no file. Throws a Problem
 * where the file is of another training than `of`, or not whole.
 */
export function readCheckpoint(file: string, of: string, memory: WebAssembly.Memory, at: Layout): number {
  if (!existsSync(file)) return 0;
  const opened = openSync(file, "r");
  try {
    const header = Buffer.alloc(HEADER);
    readSync(opened, header);
    const [first = "", steps = ""] = header.toString("utf8").split("\n");
    if (first !== of) throw new Problem(`The checkpoint '${file}' is of another training. Remove it to begin anew.`);
    const into = state(memory, at);
    // Read into a buffer of its own first: the file functions take no shared memory.
    const part = Buffer.alloc(Math.min(PART, into.length));
    for (let read = 0; read < into.length; ) {
      const count = readSync(opened, part, 0, Math.min(part.length, into.length - read), null);
      if (count === 0) throw new Problem(`The checkpoint '${file}' is not whole. Remove it to begin anew.`);
      into.set(part.subarray(0, count), read);
      read += count;
    }
    return Number(steps);
  } finally {
    closeSync(opened);
  }
}

/** Written under another name first: a training that is cut off while it writes has the one before. */
export function writeCheckpoint(file: string, of: string, steps: number, memory: WebAssembly.Memory, at: Layout): void {
  const opened = openSync(`${file}.new`, "w");
  try {
    writeSync(opened, Buffer.from(`${of}\n${steps}\n`.padEnd(HEADER)));
    const from = state(memory, at);
    for (let written = 0; written < from.length; )
      written += writeSync(opened, Buffer.from(from.subarray(written, written + PART)));
  } finally {
    closeSync(opened);
  }
  renameSync(`${file}.new`, file);
}
