/** The embeddings of a set's texts by text-use-1, computed once and kept in .graft/bench. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { textUse } from "../../src/backbones/node.ts";
import { type Encoder, embedTexts } from "../shared/linear-probe.ts";
import type { LabelledText } from "../shared/text-datasets.ts";

/** Texts that are embedded together, under a name of their own. */
export interface TextFile {
  readonly name: string;
  readonly rows: readonly LabelledText[];
}

const FOLDER = join(".graft", "bench", "evaluation", "embeddings");
/** Of one core: 12 sub-words a text, 4.5 characters each, 590 texts a second (bench/encode.ts). */
const CHARACTERS_PER_SECOND = 30_000;
/** So many files are held in memory: the cases of a set mostly follow each other. */
const MAX_HELD_FILES = 4;
const held = new Map<string, Map<string, Float32Array>>();

/** The encoder of the texts of these files. */
export async function encoderOf(files: readonly TextFile[]): Promise<Encoder> {
  const maps: Map<string, Float32Array>[] = [];
  for (const file of files) maps.push(await embeddingsOf(file));
  return {
    dimensions: textUse.dimensions,
    encode(text) {
      const own = maps.find((embeddings) => embeddings.has(text))?.get(text);
      if (own === undefined) throw new Error(`There is no embedding of '${text}'.`);
      return own;
    },
  };
}

/** About how many seconds of one core embedding the texts takes. */
export function embeddingSeconds({ rows }: TextFile): number {
  return rows.reduce((length, { text }) => length + text.length, 0) / CHARACTERS_PER_SECOND;
}

export function isEmbedded(file: TextFile): boolean {
  return existsSync(pathOf(file));
}

async function embeddingsOf(file: TextFile): Promise<Map<string, Float32Array>> {
  const { dimensions } = textUse;
  const { name, rows } = file;
  const embeddings = held.get(name) ?? new Map<string, Float32Array>();
  held.delete(name);
  held.set(name, embeddings);
  if (held.size > MAX_HELD_FILES) held.delete(held.keys().next().value as string);
  if (embeddings.size > 0) return embeddings;
  const path = pathOf(file);
  if (!isEmbedded(file)) {
    const { encode } = await embedTexts(textUse, rows);
    const values = new Float32Array(rows.length * dimensions);
    for (const [i, { text }] of rows.entries()) values.set(encode(text), i * dimensions);
    mkdirSync(FOLDER, { recursive: true });
    // An interrupted write leaves no embeddings.
    writeFileSync(`${path}.new`, values);
    renameSync(`${path}.new`, path);
  }
  const values = new Float32Array(Uint8Array.from(readFileSync(path)).buffer);
  for (const [i, { text }] of rows.entries())
    embeddings.set(text, values.subarray(i * dimensions, (i + 1) * dimensions));
  return embeddings;
}

function pathOf({ name, rows }: TextFile): string {
  return join(FOLDER, `${name.replace(/[^a-z0-9_.-]+/gi, "-")}-${rows.length}.bin`);
}
