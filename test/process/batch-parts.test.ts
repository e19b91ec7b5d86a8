/** The parts of a batch endpoint that read and reckon. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type Checkpoint,
  decodeCheckpoint,
  emptyCheckpoint,
  encodeCheckpoint,
  type FoldCandidates,
} from "../../src/batch/attempt/checkpoint.ts";
import type { TrainingContext } from "../../src/batch/attempt/context.ts";
import { makeEmbeddingMatrix } from "../../src/batch/attempt/embedding-matrix.ts";
import { type Examples, readExamples } from "../../src/batch/attempt/examples.ts";
import { type Predictions, predictRows } from "../../src/batch/attempt/model.ts";
import { compareOutcomes, emptyComparison, outcomesOf } from "../../src/batch/attempt/stages/compare.ts";
import { splitRows } from "../../src/batch/attempt/stages/cross-fit.ts";
import { sampleExamples } from "../../src/batch/attempt/stages/sample.ts";
import { makeTrainingStates } from "../../src/batch/attempt/training-states.ts";
import type { Head, Task } from "../../src/core/head.ts";
import { linearHead } from "../contract/linear-head.ts";
import { decodeFloats, embeddingOptions, makeEmbeddings, makeSubmission, makeTexts } from "./batch-data.ts";
import { ndjson, sha256Hex } from "./fake-worker.ts";

/** The bytes cut into chunks of these lengths, over and over. */
async function* splitChunks(bytes: Uint8Array, lengths: readonly number[]): AsyncGenerator<Uint8Array> {
  for (let from = 0, i = 0; from < bytes.length; i++) {
    const length = lengths[i % lengths.length] as number;
    yield bytes.subarray(from, from + length);
    from += length;
  }
}

const lengths = fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 9 });

describe("data", () => {
  const lines = makeTexts(12, (topic, i) => (i === 3 ? "größer → 🎈" : topic));
  const body = Buffer.from(ndjson(lines));
  const submission = makeSubmission();

  it("are the same however they are cut into chunks", async () => {
    await fc.assert(
      fc.asyncProperty(lengths, async (chunkLengths) => {
        const read = await readExamples(splitChunks(body, chunkLengths), submission, 1e6);
        if (!read?.ok) throw new Error("They were not read.");
        expect(read.value).toMatchObject({
          texts: lines.map(({ text }) => text),
          targets: lines.map(({ target }) => target),
          heldOut: lines.map(({ held_out }) => held_out),
          groups: Int32Array.from(lines.keys()),
          groupPositions: lines.map(
            ({ group }) => Number.parseInt(sha256Hex(Buffer.from(group)).slice(0, 12), 16) / 2 ** 48,
          ),
          revision: 7,
          digest: sha256Hex(body.subarray(0, body.lastIndexOf("\n", body.length - 2) + 1)),
        });
      }),
    );
  });

  it("have the ids of their examples, which a checkpoint does not depend on", async () => {
    const named = lines.map((line, i) => (i === 3 ? line : { ...line, id: `ex_"${i}"`, position: i }));
    const [plain, withIds] = await Promise.all(
      [lines, named].map((each) => readExamples(splitChunks(Buffer.from(ndjson(each)), [90]), submission, 1e6)),
    );
    if (!plain?.ok || !withIds?.ok) throw new Error("They were not read.");
    expect(withIds.value.ids).toEqual(lines.map((_, i) => (i === 3 ? undefined : `ex_"${i}"`)));
    expect(withIds.value.digest).toBe(plain.value.digest);
  });

  it("are not whole wherever they are cut off", async () => {
    const cutOffsets = fc.integer({ min: 0, max: body.length - 2 });
    await fc.assert(
      fc.asyncProperty(cutOffsets, lengths, async (end, chunkLengths) => {
        expect(await readExamples(splitChunks(body.subarray(0, end), chunkLengths), submission, 1e6)).toBeNull();
      }),
    );
    const unfinishedBody = body.subarray(0, body.length - 1);
    expect(await readExamples(splitChunks(unfinishedBody, [100]), submission, 1e6)).toMatchObject({ ok: true });
  });

  it("of embeddings are the numbers that were sent, and rows of one group have one number", async () => {
    const dataRows = makeEmbeddings(5, () => 1).map((line, i) => ({ ...line, group: i < 2 ? "same" : `g${i}` }));
    const task = { ...submission, ...embeddingOptions, task: "regression" } as const;
    const read = await readExamples(splitChunks(Buffer.from(ndjson(dataRows)), [64]), task, 1e6);
    if (!read?.ok) throw new Error("They were not read.");
    expect(dataRows.map((_, row) => read.value.embeddings.at(row))).toEqual(
      dataRows.map((line) => decodeFloats(line.embedding)),
    );
    expect([...read.value.groups]).toEqual([0, 0, 1, 2, 3]);
  });

  it.each([
    ["no JSON", "{]\n"],
    ["not as agreed", '{"text":"a"}\n'],
    [
      "of embeddings that are not finite",
      `${JSON.stringify({ embedding: Buffer.from(Float32Array.of(1, Number.NaN).buffer).toString("base64"), target: "a", group: "a", held_out: false })}\n`,
    ],
  ])("that are %s are refused", async (_, text) => {
    const embeddingSubmission = { ...submission, ...embeddingOptions, dimensions: 2 };
    const read = await readExamples(splitChunks(Buffer.from(text), [9]), embeddingSubmission, 1e6);
    expect(read).toMatchObject({ ok: false, failure: { code: "invalid_parameter" } });
  });

  it("of an endless line are not read on for ever", async () => {
    async function* endlessLine() {
      for (;;) yield new Uint8Array(1 << 16).fill(0x20);
    }
    expect(await readExamples(endlessLine(), submission, 1e9)).toBeNull();
  });
});

describe("a checkpoint", () => {
  const bytes = fc.uint8Array({ maxLength: 50 });
  const plan = { totalEpochs: 8, epochs: 5, headTemperature: 0.5, layersTemperature: 2 };
  const assessment = {
    evaluation: { method: "holdout", detail: "summary", examples: 3 },
    temperature: 2,
    outOfScopeThreshold: null,
    scope: null,
    thresholds: [],
    valueRange: null,
    conformal: [0.5],
  } as const;
  const trainedCandidate = fc.option(
    fc.record({ head: bytes, delta: fc.option(bytes), plan: fc.constantFrom(null, plan) }),
  );
  const floats = fc.float32Array({ maxLength: 5 });
  const bothCandidates = fc.record({ head: trainedCandidate, fine_tuned: trainedCandidate });
  const judgement = { test_examples: 3, head_accuracy: 0.5, fine_tuned_accuracy: 1, only_head: 0, only_fine_tuned: 1 };
  const training = {
    examples: 9,
    iterations: 1,
    converged: true,
    objective: 0.1,
    l2: 1,
    temperature: 1,
    lexical: false,
    milliseconds: 5,
  };
  const stages: fc.Arbitrary<Checkpoint> = fc.record({
    operations: fc.nat(),
    embeddings: fc.integer({ min: 0, max: 5 }).map((count) => {
      const rows = makeEmbeddingMatrix(3);
      for (let i = 0; i < count; i++) rows.push(Float32Array.of(i, i / 3, -i));
      return rows;
    }),
    folds: fc.oneof<fc.Arbitrary<FoldCandidates[]>[]>(
      fc.constant([]),
      fc.tuple(fc.record({ head: trainedCandidate })),
      fc.tuple(bothCandidates),
      fc.tuple(bothCandidates, fc.record({ head: trainedCandidate })),
      fc.tuple(bothCandidates, bothCandidates),
    ),
    comparison: fc.constantFrom(null, judgement),
    fineTunedAssessment: fc.constantFrom(null, { plan, assessment }),
    finalModel: fc.option(
      fc
        .tuple(bytes, fc.option(bytes))
        .map(
          ([head, delta]) =>
            ({ candidate: "head", training, evaluation: { method: "none" }, parameters: 7, head, delta }) as const,
        ),
    ),
    openTraining: fc.option(
      fc.record({
        name: fc.constantFrom(0, 1, "refit" as const),
        state: fc.record({
          epoch: fc.nat(5),
          steps: fc.nat(),
          arrays: fc.array(floats, { maxLength: 4 }),
          best: fc.option(fc.record({ loss: fc.constant(0.3), plan: fc.constant(plan), snapshot: fc.array(floats) })),
        }),
      }),
    ),
  });
  const checkpoints = stages.filter(({ comparison, finalModel }) => comparison !== null || finalModel === null);
  const rowsOf = ({ embeddings }: Checkpoint) =>
    Array.from({ length: embeddings?.count() ?? 0 }, (_, row) => [...(embeddings?.at(row) ?? [])]);

  it("gives back what later stages need, and nothing when it is cut or of something else", () => {
    fc.assert(
      fc.property(checkpoints, fc.nat(), (checkpoint, cut) => {
        const parts = encodeCheckpoint(checkpoint, "this");
        if (parts === null) {
          expect([rowsOf(checkpoint), checkpoint.comparison, checkpoint.openTraining]).toEqual([[], null, null]);
          return;
        }
        const encodedCheckpoint = Buffer.concat(parts);
        const read = decodeCheckpoint(encodedCheckpoint, "this", 3);
        expect(read?.folds).toEqual(checkpoint.comparison === null ? checkpoint.folds : []);
        expect(read && rowsOf(read)).toEqual(checkpoint.finalModel === null ? rowsOf(checkpoint) : []);
        expect([read?.comparison, read?.fineTunedAssessment, read?.finalModel]).toEqual([
          checkpoint.comparison,
          checkpoint.fineTunedAssessment,
          checkpoint.finalModel,
        ]);
        expect(read?.openTraining).toEqual(checkpoint.finalModel === null ? checkpoint.openTraining : null);
        expect(decodeCheckpoint(encodedCheckpoint, "that", 3)).toBeNull();
        expect(decodeCheckpoint(encodedCheckpoint.subarray(0, cut % encodedCheckpoint.length), "this", 3)).toBeNull();
        expect(decodeCheckpoint(Buffer.concat([encodedCheckpoint, Buffer.alloc(4)]), "this", 3)).toBeNull();
      }),
    );
  });

  it("has the names that checkpoints of earlier builds have", () => {
    const header = (checkpoint: Partial<Checkpoint>) => {
      const [prefix = new Uint8Array()] = encodeCheckpoint({ ...emptyCheckpoint(), ...checkpoint }, "this") ?? [];
      return Buffer.from(prefix).subarray(8).toString().trimEnd();
    };
    const storedPlan = '{"of":8,"epochs":5,"headTemperature":0.5,"layersTemperature":2}';
    const head = Uint8Array.of(1, 2, 3);
    expect(header({ folds: [{ head: null, fine_tuned: { head, delta: Uint8Array.of(4), plan } }] })).toBe(
      `{"of":"this","embeddings":0,"made":[["head",null],["fine_tuned",{"plan":${storedPlan},"head":3,"delta":1}]],"judgement":null,"told":null,"fitted":null}`,
    );
    const arrays = [Float32Array.of(1, 2), Float32Array.of(3)];
    const best = { loss: 0.5, plan, snapshot: [Float32Array.of(4)] };
    expect(header({ openTraining: { name: "refit", state: { epoch: 2, steps: 8, arrays, best } } })).toBe(
      `{"of":"this","embeddings":0,"made":[],"judgement":null,"told":null,"fitted":null,"open":{"name":"refit","epoch":2,"steps":8,"arrays":[2,1],"best":{"loss":0.5,"plan":${storedPlan},"snapshot":[1]}}}`,
    );
    expect(header({ folds: [{ head: null }, { head: null }] })).toContain('"made":[["head",null],["head",null,1]],');
    const finalModel = {
      candidate: "head",
      training,
      evaluation: { method: "none" },
      parameters: 7,
      head,
      delta: null,
    } as const;
    expect(header({ comparison: judgement, fineTunedAssessment: { plan, assessment }, finalModel })).toBe(
      `{"of":"this","embeddings":0,"made":[],"judgement":${JSON.stringify(judgement)},"told":{"plan":${storedPlan},"assessment":${JSON.stringify(assessment)}},"fitted":{"candidate":"head","training":${JSON.stringify(training)},"evaluation":{"method":"none"},"parameters":7,"head":3,"delta":null}}`,
    );
  });

  it("of nothing is none", () => {
    expect(encodeCheckpoint(emptyCheckpoint(), "this")).toBeNull();
    expect(decodeCheckpoint(Buffer.alloc(0), "this", 3)).toBeNull();
  });
});

describe("the states of trainings", () => {
  const state = (epoch: number) => ({ epoch, steps: 3 * epoch, arrays: [Float32Array.of(epoch)], best: null });
  const setUp = (openTraining: Checkpoint["openTraining"] = null) => {
    const results: Checkpoint = { ...emptyCheckpoint(), openTraining };
    const log: string[] = [];
    const save = async () => void log.push(`saved ${results.openTraining?.state.epoch}`);
    const { begin } = makeTrainingStates(results, 100, save, (message) => void log.push(message));
    return { results, log, begin };
  };

  it("are kept once enough operations would be lost, saved once, and dropped at the end", async () => {
    const { results, log, begin } = setUp();
    const training = begin(0);
    let taken = 0;
    for (const epoch of [1, 2, 3, 4, 5]) {
      training.onEpochEnd(() => {
        taken++;
        return state(epoch);
      }, 40);
      await training.save();
      await training.save();
    }
    expect([taken, log]).toEqual([1, ["saved 3"]]);
    expect(results.openTraining).toEqual({ name: 0, state: state(3) });
    training.end();
    expect(results.openTraining).toBeNull();
    // What the one before did does not count.
    begin(1).onEpochEnd(() => state(1), 40);
    expect(results.openTraining).toBeNull();
  });

  it("are given to the training that they are of alone", () => {
    const openTraining = { name: 1, state: state(2) };
    const { results, log, begin } = setUp(openTraining);
    const training = begin(1);
    expect(training.stored()).toBe(openTraining.state);
    training.onResume(2);
    expect(log).toEqual(["Goes on after epoch 2, from a checkpoint."]);
    expect(begin("refit").stored()).toBeNull();
    expect(results.openTraining).toBeNull();
  });
});

describe("the splits of a comparison", () => {
  const splitsOf = (
    targets: Examples["targets"],
    comparison: "cross_fit" | "held_out",
    heldOut: readonly boolean[] = [],
  ) => {
    const groups = Int32Array.from(targets.keys());
    const groupPositions = targets.map((_, i) => ((i * 7) % targets.length) / targets.length);
    const examples = { targets, groups, groupPositions, heldOut } as unknown as Examples;
    return splitRows({ submission: makeSubmission({ comparison, out_of_scope_label: "other" }), examples }, [
      ...targets.keys(),
    ]);
  };

  const sorted = (rows: readonly number[]) => rows.toSorted((a, b) => a - b);

  it.each([
    [41, 5],
    [499, 5],
    [500, 2],
  ])("judge each of %i examples once, by candidates that are trained on the others of %i folds", (count, folds) => {
    const targets = Array.from({ length: count }, (_, i) => ["a", "b", "c"][i % 3] as string);
    const splits = splitsOf(targets, "cross_fit");
    expect(splits).toHaveLength(folds);
    expect(sorted(splits.flatMap(({ testRows }) => testRows))).toEqual([...targets.keys()]);
    for (const { trainingRows, testRows } of splits) {
      expect(sorted([...trainingRows, ...testRows])).toEqual([...targets.keys()]);
      expect(Math.abs(testRows.length - count / folds)).toBeLessThan(6);
    }
  });

  it("train on a class of one example in every fold, and hold no class out whole", () => {
    const targets = ["a", "b", "a", "b", "once"];
    const splits = splitsOf(targets, "cross_fit");
    expect(sorted(splits.flatMap(({ testRows }) => testRows))).toEqual([0, 1, 2, 3]);
    for (const { trainingRows } of splits)
      expect(new Set(trainingRows.map((row) => targets[row]))).toEqual(new Set(["a", "b", "once"]));
  });

  it("are none where no class has two examples, and where nothing or all is held out", () => {
    expect(splitsOf(["a", "b"], "cross_fit")).toEqual([]);
    expect(splitsOf(["a", "b", "other"], "cross_fit")).toEqual([]);
    expect(splitsOf(["a", "b", "a"], "held_out")).toEqual([]);
    expect(splitsOf(["a", "b", "a"], "held_out", [true, true, true])).toEqual([]);
    expect(splitsOf(["a", "b", "a"], "held_out", [true, false, false])).toEqual([
      { trainingRows: [1, 2], testRows: [0] },
    ]);
  });
});

describe("a sample of the examples", () => {
  const read = async (lines: Parameters<typeof ndjson>[0], submission: ReturnType<typeof makeSubmission>) => {
    const examples = await readExamples(splitChunks(Buffer.from(ndjson(lines)), [1e6]), submission, 1e7);
    if (!examples?.ok) throw new Error("They were not read.");
    return (sample: number) => sampleExamples(examples.value, { ...submission, sample });
  };

  it("is a part of every larger one, and has each label's share", async () => {
    const sampleOf = await read(
      makeTexts(120, (topic, i) => (i % 10 === 0 ? "rare" : topic)),
      makeSubmission({ comparison: "cross_fit" }),
    );
    const samples = [20, 30, 60, 120].map(sampleOf);
    for (const [i, { texts }] of samples.slice(0, -1).entries())
      expect(texts.every((text) => samples[i + 1]?.texts.includes(text))).toBe(true);
    for (const { texts, targets } of samples) {
      expect(targets).toHaveLength(texts.length);
      expect(targets.filter((target) => target === "rare")).toHaveLength(texts.length / 10);
    }
    expect(sampleOf(30).texts).toEqual(samples[1]?.texts);
    expect(sampleOf(500).texts).toEqual(samples[3]?.texts);
  });

  it("leaves what is held out for the comparison beside it", async () => {
    const sampleOf = await read(makeTexts(100), makeSubmission({ comparison: "held_out" }));
    const { heldOut, texts } = sampleOf(30);
    expect(heldOut.filter(Boolean)).toHaveLength(20);
    expect(texts).toHaveLength(50);
    expect(sampleOf(80).texts).toHaveLength(100);
  });

  it("has each row as it was", async () => {
    const lines = makeEmbeddings(60, (value) => (value > 0 ? "above" : "below"));
    const sampleOf = await read(lines, makeSubmission({ ...embeddingOptions, comparison: "cross_fit" }));
    const [all, { embeddings, ...sample }] = [sampleOf(60), sampleOf(15)];
    expect(sample).toMatchObject({ texts: [], revision: all.revision, digest: all.digest });
    expect(embeddings.count()).toBe(15);
    for (const [i, group] of sample.groups.entries()) {
      expect(embeddings.at(i)).toEqual(decodeFloats(lines[group]?.embedding));
      expect(sample.targets[i]).toBe(lines[group]?.target);
      expect(sample.heldOut[i]).toBe(lines[group]?.held_out);
    }
  });
});

describe("the comparison", () => {
  /** A head of one dimension, whose outputs are x times the weights. */
  const makeHead = (task: Task, labels: readonly string[], ...weights: number[]): Head =>
    linearHead({
      task,
      labels,
      dimensions: 1,
      weights: Float32Array.from(weights),
      bias: new Float32Array(weights.length),
    });
  const makeMaterial = (
    task: Task,
    inputs: readonly number[],
    targets: Examples["targets"],
    outOfScope: string | null = null,
  ) => {
    const rows = makeEmbeddingMatrix(1);
    for (const x of inputs) rows.push(Float32Array.of(x));
    return {
      submission: { ...makeSubmission(), task, out_of_scope_label: outOfScope },
      examples: { texts: [], targets },
      embed: (row: number) => rows.at(row),
      yieldToEventLoop: async () => undefined,
    } as unknown as TrainingContext;
  };

  const compare = async (trainingMaterial: TrainingContext, rows: readonly number[], frozen: Head, fineTuned: Head) => {
    const answers = async (head: Head): Promise<Predictions> => ({
      head,
      outputs: await predictRows(trainingMaterial, rows, { head, embed: trainingMaterial.embed }),
    });
    const outcomes = outcomesOf(trainingMaterial, rows, await answers(frozen), await answers(fineTuned));
    return compareOutcomes(trainingMaterial.submission.task, outcomes);
  };

  it("counts labels that are the most probable, and leaves out those out of scope", async () => {
    const trainingMaterial = makeMaterial("single_label", [1, -1, 1, 1], ["a", "b", "none", "c"], "none");
    const right = makeHead("single_label", ["a", "b"], 1, -1);
    const onlyA = makeHead("single_label", ["a", "b"], 0, 0);
    expect(await compare(trainingMaterial, [0, 1, 2, 3], onlyA, right)).toEqual({
      test_examples: 3,
      head_accuracy: 1 / 3,
      fine_tuned_accuracy: 2 / 3,
      only_head: 0,
      only_fine_tuned: 1,
    });
  });

  it("counts sets of labels that are right as a whole", async () => {
    const trainingMaterial = makeMaterial("multi_label", [1, -1, 1], [["a"], ["b"], ["a", "b"]]);
    const apart = makeHead("multi_label", ["a", "b"], 1, -1);
    const both = makeHead("multi_label", ["a", "b"], 1, 1);
    expect(await compare(trainingMaterial, [0, 1, 2], apart, both)).toEqual({
      test_examples: 3,
      head_accuracy: 2 / 3,
      fine_tuned_accuracy: 1 / 3,
      only_head: 2,
      only_fine_tuned: 1,
    });
  });

  it("compares nothing where every example has a label that was not trained", async () => {
    const single = makeMaterial("single_label", [1, -1], ["c", "d"]);
    const [a, b] = [makeHead("single_label", ["a", "b"], 1, -1), makeHead("single_label", ["a", "b"], 0, 0)];
    expect(await compare(single, [0, 1], a, b)).toEqual(emptyComparison);
    const multi = makeMaterial("multi_label", [1, -1, 1], [["a", "c"], ["d"], []]);
    const [apart, both] = [makeHead("multi_label", ["a", "b"], 1, -1), makeHead("multi_label", ["a", "b"], 1, 1)];
    expect(await compare(multi, [0, 1], apart, both)).toEqual(emptyComparison);
    // No label at all is a prediction that can be right.
    expect((await compare(multi, [0, 1, 2], apart, both)).test_examples).toBe(3);
  });

  it("counts values that are nearer, and those alike for neither", async () => {
    const trainingMaterial = makeMaterial("regression", [0, 1, 2, 3], [0, 1, 2, 3]);
    const [zero, right] = [makeHead("regression", [], 0), makeHead("regression", [], 1)];
    expect(await compare(trainingMaterial, [0, 1, 2, 3], zero, right)).toEqual({
      test_examples: 4,
      head_accuracy: expect.closeTo(1 - 14 / 5),
      fine_tuned_accuracy: 1,
      only_head: 0,
      only_fine_tuned: 3,
      // Of 0, 1, 4 and 9 over the variance 5/4.
      gain_error: expect.closeTo(Math.sqrt(49 / 4 / 3) / (5 / 4)),
    });
  });
});
