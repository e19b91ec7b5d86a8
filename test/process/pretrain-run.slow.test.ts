import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { afterAll, beforeEach, expect, it } from "vitest";
import { nextMessage, pretrain } from "../../src/pretrain/run.ts";
import { shape, smallCorpus } from "./pretrain-data.ts";

const corpus = smallCorpus();
const hyperparameters = { steps: 12, seed: 1, rate: 0.01, headRate: 0.003, warmUp: 0.25 };
const folder = mkdtempSync(join(tmpdir(), "graft-pretrain-"));
const checkpoint = join(folder, "checkpoint");
const progress: string[] = [];
const run = { threads: 1, checkpoint, progress: (line: string) => void progress.push(line) };

beforeEach(() => {
  rmSync(checkpoint, { force: true });
  progress.length = 0;
});
afterAll(() => rmSync(folder, { recursive: true }));

const uninterruptedRun = await pretrain(corpus, shape, hyperparameters, run);

it.each([2, 3])("trains the same table on %i threads as on one", async (threads) => {
  expect(uninterruptedRun?.every(Number.isFinite)).toBe(true);
  expect(await pretrain(corpus, shape, hyperparameters, { ...run, threads })).toEqual(uninterruptedRun);
  expect(existsSync(checkpoint)).toBe(false);
});

it("trains another table with another seed", async () => {
  expect(await pretrain(corpus, shape, { ...hyperparameters, seed: 2 }, run)).not.toEqual(uninterruptedRun);
});

it("goes on from its checkpoint to the same table, on other threads too", async () => {
  expect(await pretrain(corpus, shape, hyperparameters, { ...run, stopAfter: 5 })).toBeNull();
  expect(await pretrain(corpus, shape, hyperparameters, { ...run, threads: 2, stopAfter: 3 })).toBeNull();
  expect(progress).toContain("Going on from step 5.");
  expect(await pretrain(corpus, shape, hyperparameters, run)).toEqual(uninterruptedRun);
  expect(progress).toContain("Going on from step 8.");
});

it("refuses a checkpoint of other settings or data, and one that is cut off anywhere", async () => {
  await pretrain(corpus, shape, hyperparameters, { ...run, stopAfter: 1 });
  const other = /is of another training\. Remove it to begin anew\.$/;
  await expect(pretrain(corpus, shape, { ...hyperparameters, rate: 0.02 }, run)).rejects.toThrow(other);
  await expect(pretrain(corpus, { ...shape, vocabulary: 30 }, hyperparameters, run)).rejects.toThrow(other);
  const sources = corpus.sources.slice(1);
  await expect(pretrain({ ...corpus, sources }, shape, hyperparameters, run)).rejects.toThrow(other);

  const bytes = readFileSync(checkpoint);
  for (const length of [bytes.length - 1, 5_000, 4_096]) {
    truncateSync(checkpoint, length);
    await expect(pretrain(corpus, shape, hyperparameters, run)).rejects.toThrow(/is not whole/);
  }
  for (const length of [40, 0]) {
    truncateSync(checkpoint, length);
    await expect(pretrain(corpus, shape, hyperparameters, run)).rejects.toThrow(other);
  }
  writeFileSync(checkpoint, bytes);
  expect(await pretrain(corpus, shape, hyperparameters, run)).toEqual(uninterruptedRun);
});

it("ends with the error of a thread that fails while the others wait for it", async () => {
  // A row far beyond the memory, in a word that one of the threads sums up.
  const members = corpus.wordRows.members.slice();
  members[0] = 1 << 22;
  const brokenCorpus = { ...corpus, wordRows: { ...corpus.wordRows, members } };
  await expect(pretrain(brokenCorpus, shape, hyperparameters, { ...run, threads: 2 })).rejects.toThrow("out of bounds");
});

it("takes a thread that ends without a word for a failure", async () => {
  const worker = new Worker("process.exit(3)", { eval: true });
  await expect(nextMessage(worker)).rejects.toThrow("A thread ended with exit code 3 before its work was done.");
});
