/**
 * Trains the backbone text-static-1 from raw text, and writes the files of models/text-static-1:
 * `npm run backbone:train -- --help`.
 *
 * src/pretrain/sources.ts names the data's files; the model's CARD.md lists them with their licences. An interrupted
 * training resumes from its last checkpoint. The same data and seed give the same files on any number of threads.
 */
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { quantise } from "./backbones/quantise.ts";
import { exitWithError, UsageError } from "./lib/usage-error.ts";
import { readCorpus } from "./pretrain/corpus.ts";
import { foldNgrams } from "./pretrain/fold.ts";
import { pretrain } from "./pretrain/run.ts";
import { groups } from "./pretrain/sources.ts";

const usage = `Usage: npm run backbone:train -- --data DIR [--out DIR] [--steps N] [--seed N] [--threads N] [--checkpoint FILE]

  --data        the folder of raw text; the labelled tasks are in a folder 'tasks' beside it
  --out         models/text-static-1: where config.json, vocabulary.txt and table.bin are written
  --steps       12000
  --seed        1
  --threads     2; how many there are changes no result
  --checkpoint  .graft/pretrain.checkpoint: written every 3,000 steps, and removed once the files are written`;

const options = {
  data: { type: "string" },
  out: { type: "string", default: "models/text-static-1" },
  steps: { type: "string", default: "12000" },
  seed: { type: "string", default: "1" },
  threads: { type: "string", default: "2" },
  checkpoint: { type: "string", default: ".graft/pretrain.checkpoint" },
  help: { type: "boolean", short: "h", default: false },
} as const;

const shape = { dimensions: 256, vocabulary: 30_000, buckets: 60_000 };

/** The command line's options. Throws a UsageError if one is unknown or lacks its value. */
function readOptions() {
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** An option's value as an integer. Throws a UsageError if it is not one from `min` to `max`. */
function parseInteger(name: string, value: string, min: number, max: number): number {
  const number = Number(value);
  if (/^\d+$/.test(value) && number >= min && number <= max) return number;
  throw new UsageError(`--${name} is '${value}', which is not a whole number from ${min} to ${max}.`);
}

async function main(): Promise<void> {
  const { data, out, checkpoint, help, ...numbers } = readOptions();
  if (help) {
    console.log(usage);
    return;
  }
  const hyperparameters = {
    steps: parseInteger("steps", numbers.steps, 1, 10_000_000),
    seed: parseInteger("seed", numbers.seed, 0, 0xffffffff),
    rate: 0.01,
    headRate: 0.003,
    warmUp: 0.05,
  };
  const threads = parseInteger("threads", numbers.threads, 1, 64);
  if (data === undefined) throw new UsageError("--data is missing: the folder of the text to train on.");
  if (!existsSync(data)) throw new UsageError(`There is no folder '${data}'.`);

  const started = performance.now();
  const progress = (line: string) =>
    console.log(`${((performance.now() - started) / 1000).toFixed(0).padStart(5)} s  ${line}`);
  const corpus = readCorpus(data, groups, shape, progress);
  makeFolder(out);
  makeFolder(dirname(checkpoint));
  const table = await pretrain(corpus, shape, hyperparameters, { threads, checkpoint, progress });
  if (table === null) throw new Error("The training ended before its last step.");
  const config = {
    id: "text-static-1",
    revision: "1",
    license: "CC-BY-SA-4.0",
    ...shape,
    trained: { ...hyperparameters, texts: corpus.texts.starts.length - 1, words: corpus.texts.members.length },
  };
  writeFileSync(join(out, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
  writeFileSync(join(out, "vocabulary.txt"), `${corpus.vocabulary.join("\n")}\n`);
  writeFileSync(join(out, "table.bin"), quantise(foldNgrams(corpus, shape, table), shape));
  rmSync(checkpoint, { force: true });
  progress(`Written to ${out}.`);
}

/** Throws a UsageError if the folder cannot be made. It is called before the training, whose result would be lost. */
function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw new UsageError(`The folder '${folder}' cannot be made: ${(error as Error).message}`);
  }
}

await main().catch(exitWithError);
