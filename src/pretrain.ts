/**
 * Trains the backbone text-static-1, from raw text to the files of models/text-static-1:
 *
 *   npm run backbone:train [-- --data DIR] [--out DIR] [--steps N] [--seed N] [--threads N] [--checkpoint FILE]
 *
 * DIR holds the files that src/pretrain/sources.ts names, and beside it a folder `tasks` with the labelled ones; the model's
 * CARD.md lists them all with their licences. A training that was cut off goes on from its last checkpoint. The same data and
 * seed give the same files on any number of threads.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { readCorpus } from "./pretrain/corpus.ts";
import { foldedRows, quantise } from "./pretrain/quantise.ts";
import { pretrain } from "./pretrain/run.ts";
import { groups } from "./pretrain/sources.ts";

const { values } = parseArgs({
  options: {
    data: { type: "string", default: "../shared/data/pretrain" },
    out: { type: "string", default: "models/text-static-1" },
    steps: { type: "string", default: "60000" },
    seed: { type: "string", default: "1" },
    threads: { type: "string", default: "2" },
    checkpoint: { type: "string", default: ".graft/pretrain.checkpoint" },
  },
});
const shape = { dimensions: 256, vocabulary: 30_000, buckets: 60_000 };
const hyperparameters = {
  steps: Number(values.steps),
  seed: Number(values.seed),
  rate: 0.01,
  headRate: 0.003,
  warmUp: 0.05,
};
const started = performance.now();
const progress = (line: string) =>
  console.log(`${((performance.now() - started) / 1000).toFixed(0).padStart(5)} s  ${line}`);

mkdirSync(dirname(values.checkpoint), { recursive: true });
const corpus = readCorpus(values.data, groups, shape, progress);
const run = { threads: Number(values.threads), checkpoint: values.checkpoint, progress };
const table = await pretrain(corpus, shape, hyperparameters, run);
if (table === null) throw new Error("The training ended before its last step.");
const config = {
  id: "text-static-1",
  revision: "1",
  license: "CC-BY-SA-4.0",
  ...shape,
  trained: { ...hyperparameters, texts: corpus.texts.starts.length - 1, words: corpus.texts.members.length },
};
mkdirSync(values.out, { recursive: true });
writeFileSync(join(values.out, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
writeFileSync(join(values.out, "vocabulary.txt"), `${corpus.vocabulary.join("\n")}\n`);
writeFileSync(join(values.out, "table.bin"), quantise(foldedRows(corpus, shape, table), shape));
progress(`Written to ${values.out}.`);
