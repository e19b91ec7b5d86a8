import { describe, expect, it } from "vitest";
import { seededRandom } from "../../src/core/random.ts";
import { BATCH_SIZE, type Batch, makeBatcher } from "../../src/pretrain/batch.ts";
import { type Corpus, readCorpus } from "../../src/pretrain/corpus.ts";
import { compileKernels, instantiateKernels, sharedMemory } from "../../src/pretrain/kernels.ts";
import { makeLayout, paddedClasses } from "../../src/pretrain/layout.ts";
import { makeTrainer } from "../../src/pretrain/step.ts";
import { removeFolder, restrictKinds, shape, smallCorpus, writeFolder } from "./pretrain-data.ts";

const corpus = smallCorpus();
const module = await compileKernels();
const { dimensions: d } = shape;
const size = (shape.vocabulary + shape.buckets) * d;
const hyperparameters = { steps: 100, seed: 3, rate: 0.01, headRate: 0.003, warmUp: 0.1 };

/** The losses of src/pretrain/pair-loss.ts and label-loss.ts, in 64-bit floats. */
function computeLoss(trainCorpus: Corpus, batch: Batch, table: Float64Array, head: Float64Array): number {
  const { starts, members } = trainCorpus.wordRows;
  const units = Array.from({ length: batch.textCount }, (_, text) => {
    const sum = new Float64Array(d);
    for (const position of batch.textWords.subarray(batch.textStarts[text], batch.textStarts[text + 1])) {
      const word = batch.distinctWords[position] as number;
      for (let i = starts[word] as number; i < (starts[word + 1] as number); i++) {
        const [row, factor] = [members[i] as number, trainCorpus.wordFactors[i] as number];
        if (row < shape.vocabulary && batch.rowDropped[position] === 1) continue;
        for (let j = 0; j < d; j++) sum[j] = (sum[j] as number) + factor * (table[row * d + j] as number);
      }
    }
    const norm = Math.hypot(...sum);
    return sum.map((value) => value / norm);
  });
  const dot = (a: Float64Array | undefined, b: Float64Array | undefined) => {
    let sum = 0;
    for (let j = 0; j < d; j++) sum += (a?.[j] as number) * (b?.[j] as number);
    return sum;
  };
  const logSum = (values: readonly number[]) => Math.log(values.reduce((sum, value) => sum + Math.exp(value), 0));
  let loss = 0;
  if (batch.source.kind === "labelled") {
    const { classes } = batch.source;
    const intercepts = head.subarray(paddedClasses(classes) * d);
    for (let i = 0; i < BATCH_SIZE; i++) {
      const logits = Array.from(
        { length: classes },
        (_, c) => 10 * dot(head.subarray(c * d, (c + 1) * d), units[i]) + (intercepts[c] as number),
      );
      loss += (logSum(logits) - (logits[batch.targets[i] as number] as number)) / BATCH_SIZE;
    }
    return loss;
  }
  const masked = new Set(batch.maskedPairs);
  const logits = Array.from({ length: BATCH_SIZE }, (_, i) =>
    Array.from({ length: BATCH_SIZE }, (_, j) =>
      masked.has(i * BATCH_SIZE + j) ? Number.NEGATIVE_INFINITY : 20 * dot(units[i], units[BATCH_SIZE + j]),
    ),
  );
  for (let i = 0; i < BATCH_SIZE; i++) {
    const row = logits[i] as number[];
    const sums = logSum(row) + logSum(logits.map((logitRow) => logitRow[i] as number));
    loss += (sums / 2 - (row[i] as number)) / BATCH_SIZE;
  }
  return loss;
}

/** One step from random parameters, and the gradients that Adam's means then hold: (1 − β₁) of each. */
async function runStep(trainCorpus: Corpus) {
  const offsets = makeLayout(trainCorpus, shape, 1);
  const memory = sharedMemory(offsets.bytes);
  const batch = makeBatcher(trainCorpus, hyperparameters.seed)(0);
  const head = offsets.heads[batch.sourceIndex] as number;
  const classes = paddedClasses(batch.source.classes);
  const headSize = classes * (d + 1);
  const readView = (offset: number, count: number) => new Float32Array(memory.buffer, offset, count);
  const random = seededRandom(8);
  const table = readView(offsets.table, size).map(() => random() - 0.5);
  // The classes that only pad the head stay at zero.
  const real = (i: number) => (i < classes * d ? i / d : i - classes * d) < batch.source.classes;
  const weights = readView(head, headSize).map((_, i) => (real(i) ? random() - 0.5 : 0));
  readView(offsets.table, size).set(table);
  readView(head, headSize).set(weights);
  const thread = { index: 0, threads: 1, wait: () => undefined };
  const step = makeTrainer({
    corpus: trainCorpus,
    shape,
    hyperparameters,
    memory,
    kernels: await instantiateKernels(module, memory),
    layout: offsets,
    thread,
  });
  const { loss, source } = step(0);
  expect(source).toBe(batch.sourceIndex);
  const gradients = (means: number, count: number) =>
    Float64Array.from(readView(means, count), (mean) => mean / (1 - 0.9));
  return {
    ...{ batch, loss, real },
    table: {
      before: Float64Array.from(table),
      after: readView(offsets.table, size),
      gradient: gradients(offsets.means, size),
    },
    head: {
      before: Float64Array.from(weights),
      after: readView(head, headSize),
      gradient: gradients(head + 4 * headSize, headSize),
    },
  };
}

const cases = corpus.sources.map((source) => ({
  sourceCorpus: { ...corpus, sources: [{ ...source, share: 1 }] },
  ...source,
}));

describe.each(cases)("a step on $name as $kind", ({ sourceCorpus, kind }) => {
  it("has the loss of the formula, and the gradients of its central differences", async () => {
    const { batch, loss, table, head, real } = await runStep(sourceCorpus);
    const lossAt = (tableValues: Float64Array, headValues: Float64Array) =>
      computeLoss(sourceCorpus, batch, tableValues, headValues);
    expect(Math.abs(loss - lossAt(table.before, head.before))).toBeLessThan(1e-4);
    if (kind === "halves" || kind === "pairs") expect(batch.maskedPairs.length).toBeGreaterThan(0);

    const random = seededRandom(4);
    const moveAlong = ({ before }: { before: Float64Array }, direction: Float64Array, distance: number) =>
      before.map((value, i) => value + distance * (direction[i] as number));
    const directions = [() => 2 * random() - 1, () => Number(random() < 0.002), () => Number(random() < 0.02)];
    for (const number of directions) {
      const tableDirection = table.before.map(number);
      const headDirection = head.before.map((_, i) => (real(i) ? number() : 0));
      const h = 1e-4;
      const slope = (a: number, b: number) => {
        const [above, below] = [h, -h].map((distance) =>
          lossAt(moveAlong(table, tableDirection, a * distance), moveAlong(head, headDirection, b * distance)),
        );
        return ((above as number) - (below as number)) / (2 * h);
      };
      const directionalDerivative = (gradient: Float64Array, direction: Float64Array) =>
        gradient.reduce((sum, value, i) => sum + value * (direction[i] as number), 0);
      expect(Math.abs(slope(1, 0) - directionalDerivative(table.gradient, tableDirection))).toBeLessThan(1e-4);
      if (kind === "labelled")
        expect(Math.abs(slope(0, 1) - directionalDerivative(head.gradient, headDirection))).toBeLessThan(1e-4);
    }
  });

  it("moves each number that has a gradient by the warm-up's first rate, and no other", async () => {
    const { table, head, real } = await runStep(sourceCorpus);
    for (const [{ before, after, gradient }, rate] of [[table, 0.001] as const, [head, 0.0003] as const]) {
      gradient.forEach((slope, i) => {
        const change = (after[i] as number) - (before[i] as number);
        // The first step is as large whatever the gradient's size, unless that is near ε with its correction.
        const expected = slope === 0 ? 0 : (-rate * slope) / (Math.abs(slope) + 1e-8 / Math.sqrt(1 - 0.999));
        expect(Math.abs(change - expected)).toBeLessThan(slope === 0 ? Number.MIN_VALUE : 0.01 * rate);
      });
    }
    head.gradient.forEach((slope, i) => {
      if (!real(i)) expect(slope).toBe(0);
    });
  });
});

it("gives every list room for the longest words and texts that a batch can have", () => {
  const random = seededRandom(2);
  const word = (length: number) =>
    Array.from({ length }, () => String.fromCharCode(97 + Math.floor(26 * random()))).join("");
  const text = () => Array.from({ length: 60 }, () => word(30 + Math.floor(20 * random()))).join(" ");
  const folder = writeFolder({ "long.txt": [...Array.from({ length: 700 }, text), word(20_000)] });
  const group = { name: "long", kind: "adjacent", weight: 1, power: 1, files: ["long.txt"] } as const;
  const longCorpus = readCorpus(folder, [group], shape, () => undefined);
  removeFolder(folder);
  const offsets = makeLayout(longCorpus, shape, 2);
  const [firstThread, secondThread] = offsets.threads as [(typeof offsets.threads)[0], (typeof offsets.threads)[0]];
  const capacity = (from: number, to: number) => (to - from) / 4;
  const make = makeBatcher(longCorpus, 1);
  const { starts } = longCorpus.wordRows;
  let maximum = 0;
  for (let step = 0; step < 5; step++) {
    const { textCount, textStarts, distinctWords, distinctCount } = make(step);
    const words = textStarts[textCount] as number;
    let factors = 0;
    for (const word of distinctWords.subarray(0, distinctCount))
      factors += (starts[word + 1] as number) - (starts[word] as number);
    maximum = Math.max(maximum, words);
    expect(words).toBeLessThanOrEqual(capacity(firstThread.textWords, firstThread.wordTextStarts));
    expect(words).toBeLessThanOrEqual(capacity(firstThread.wordTexts, firstThread.factorStarts));
    expect(distinctCount).toBeLessThan(capacity(firstThread.wordTextStarts, firstThread.wordTexts));
    expect(distinctCount * d).toBeLessThanOrEqual(capacity(offsets.wordVectors, offsets.wordGradients));
    expect(factors).toBeLessThanOrEqual(capacity(firstThread.factorRows, firstThread.factors));
    expect(factors).toBeLessThanOrEqual(capacity(firstThread.rowMembers, firstThread.rowFactors));
  }
  expect(maximum).toBeGreaterThan(36 * 2 * BATCH_SIZE);
  expect(firstThread.scratch).toBeLessThan(secondThread.textStarts);
  expect(offsets.bytes).toBeGreaterThan(secondThread.scratch);
});

it("refuses a shape that the kernels cannot work on, and a training beyond what they can address", () => {
  const problem = (dimensions: number, buckets: number) => () =>
    makeLayout(restrictKinds(corpus, "pairs"), { ...shape, dimensions, buckets }, 1);
  expect(problem(48, 64)).toThrow("A table has a multiple of 32 dimensions, not 48.");
  expect(problem(256, 2_000_000)).toThrow(/would need 5\.\d GiB of memory, and can have 4\./);
});
