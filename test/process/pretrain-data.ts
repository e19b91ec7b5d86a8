/** A small corpus with sources of every kind, for the tests of pre-training. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { seededRandom } from "../../src/core/random.ts";
import type { Corpus, TableShape } from "../../src/pretrain/corpus.ts";
import { readCorpus } from "../../src/pretrain/corpus.ts";
import type { SourceGroup, SourceKind } from "../../src/pretrain/sources.ts";

export const shape: TableShape = { dimensions: 32, vocabulary: 40, buckets: 64 };

export const groups: readonly SourceGroup[] = [
  { name: "pairs", kind: "pairs", weight: 1, power: 0.5, files: ["few.tsv", "many.tsv"] },
  { name: "adjacent", kind: "adjacent", weight: 1, power: 1, files: ["lines.txt"] },
  { name: "halves", kind: "halves", weight: 2, power: 1, files: ["lines.txt"] },
  { name: "labelled", kind: "labelled", weight: 1, power: 1, files: ["labels.tsv", "tasks/some/train.csv"] },
];

/** A folder of raw text with such files, gzipped. */
export function writeFolder(files: Readonly<Record<string, readonly string[]>>): string {
  const folder = join(mkdtempSync(join(tmpdir(), "graft-pretrain-")), "raw");
  mkdirSync(folder);
  for (const [name, lines] of Object.entries(files))
    writeFileSync(join(folder, `${name}.gz`), gzipSync(`${lines.join("\n")}\n`));
  return folder;
}

/** Writes the files of `groups`, of made-up words; few texts in the pairs, so that many share one. */
export function writeCorpus(): string {
  const random = seededRandom(5);
  const randomBelow = (count: number) => Math.floor(random() * count);
  const word = () => Array.from({ length: 1 + randomBelow(7) }, () => "abcdéж7".charAt(randomBelow(7))).join("");
  const vocabulary = Array.from({ length: 150 }, word);
  const text = (min: number, max: number) =>
    Array.from({ length: min + randomBelow(max - min + 1) }, () => vocabulary[randomBelow(12) * randomBelow(13)]).join(
      " ",
    );
  const texts = Array.from({ length: 900 }, () => text(1, 9));
  const pick = (count: number) => texts[randomBelow(count)] as string;
  const folder = writeFolder({
    "few.tsv": Array.from({ length: 100 }, () => `${pick(60)}\t${pick(60)}`),
    "many.tsv": Array.from({ length: 400 }, () => `${pick(900)}\t${pick(900)}`),
    "lines.txt": Array.from({ length: 300 }, () => text(3, 60)),
    "labels.tsv": Array.from({ length: 80 }, () => `${pick(900)}\t${["a", "b|c", "a|d|e"][randomBelow(3)]}`),
  });
  mkdirSync(join(folder, "..", "tasks", "some"), { recursive: true });
  const rows = Array.from({ length: 50 }, (_, i) => `"${pick(900)}",${i % 11}`);
  writeFileSync(join(folder, "..", "tasks", "some", "train.csv"), ["text,label", ...rows, '" ",3'].join("\n"));
  return folder;
}

export function smallCorpus(): Corpus {
  const folder = writeCorpus();
  try {
    return readCorpus(folder, groups, shape, () => undefined);
  } finally {
    removeFolder(folder);
  }
}

export function removeFolder(folder: string): void {
  rmSync(join(folder, ".."), { recursive: true });
}

/** The same corpus with sources of one kind alone, as likely as each other. */
export function restrictKinds(corpus: Corpus, ...kinds: readonly SourceKind[]): Corpus {
  const sources = corpus.sources.filter(({ kind }) => kinds.includes(kind));
  return { ...corpus, sources: sources.map((source) => ({ ...source, share: 1 / sources.length })) };
}
