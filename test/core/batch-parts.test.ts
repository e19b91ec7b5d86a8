/** The parts of a batch endpoint that read and reckon. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Material } from "../../src/batch/attempt/candidates.ts";
import { decodeStages, encodeStages, noStages, type Stages } from "../../src/batch/attempt/checkpoint.ts";
import { type Answers, compareHeads, predictions } from "../../src/batch/attempt/comparison.ts";
import { type Examples, readExamples } from "../../src/batch/attempt/data.ts";
import { makeRows } from "../../src/batch/attempt/rows.ts";
import type { Head, Task } from "../../src/core/head.ts";
import { embeddings, floats, ofEmbeddings, submissionOf, texts } from "./batch-data.ts";
import { ndjson, sha256Of } from "./batch-worker.ts";

/** The bytes cut into chunks of these lengths, over and over. */
async function* chunksOf(bytes: Uint8Array, lengths: readonly number[]): AsyncGenerator<Uint8Array> {
  for (let from = 0, i = 0; from < bytes.length; i++) {
    const length = lengths[i % lengths.length] as number;
    yield bytes.subarray(from, from + length);
    from += length;
  }
}

const lengths = fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 9 });

describe("data", () => {
  const lines = texts(12, (topic, i) => (i === 3 ? "größer → 🎈" : topic));
  const whole = Buffer.from(ndjson(lines));
  const submission = submissionOf();

  it("are the same however they are cut into chunks", async () => {
    await fc.assert(
      fc.asyncProperty(lengths, async (given) => {
        const read = await readExamples(chunksOf(whole, given), submission, 1e6);
        if (!read?.ok) throw new Error("They were not read.");
        expect(read.value).toMatchObject({
          texts: lines.map(({ text }) => text),
          targets: lines.map(({ target }) => target),
          heldOut: lines.map(({ held_out }) => held_out),
          groups: Int32Array.from(lines.keys()),
          revision: 7,
          digest: sha256Of(whole.subarray(0, whole.lastIndexOf("\n", whole.length - 2) + 1)),
        });
      }),
    );
  });

  it("are not whole wherever they are cut off", async () => {
    const ends = fc.integer({ min: 0, max: whole.length - 2 });
    await fc.assert(
      fc.asyncProperty(ends, lengths, async (end, given) => {
        expect(await readExamples(chunksOf(whole.subarray(0, end), given), submission, 1e6)).toBeNull();
      }),
    );
    const unended = whole.subarray(0, whole.length - 1);
    expect(await readExamples(chunksOf(unended, [100]), submission, 1e6)).toMatchObject({ ok: true });
  });

  it("of embeddings are the numbers that were sent, and rows of one group have one number", async () => {
    const given = embeddings(5, () => 1).map((line, i) => ({ ...line, group: i < 2 ? "same" : `g${i}` }));
    const task = { ...submission, ...ofEmbeddings, task: "regression" } as const;
    const read = await readExamples(chunksOf(Buffer.from(ndjson(given)), [64]), task, 1e6);
    if (!read?.ok) throw new Error("They were not read.");
    expect(given.map((_, row) => read.value.embeddings.at(row))).toEqual(given.map((line) => floats(line.embedding)));
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
    const wanted = { ...submission, ...ofEmbeddings, dimensions: 2 };
    const read = await readExamples(chunksOf(Buffer.from(text), [9]), wanted, 1e6);
    expect(read).toMatchObject({ ok: false, failure: { code: "invalid_parameter" } });
  });

  it("of an endless line are not read on for ever", async () => {
    async function* endless() {
      for (;;) yield new Uint8Array(1 << 16).fill(0x20);
    }
    expect(await readExamples(endless(), submission, 1e9)).toBeNull();
  });
});

describe("a checkpoint", () => {
  const bytes = fc.uint8Array({ maxLength: 50 });
  const plan = { of: 8, epochs: 5, headTemperature: 0.5, layersTemperature: 2 };
  const assessment = {
    evaluation: { method: "holdout", detail: "summary", examples: 3 },
    temperature: 2,
    outOfScopeThreshold: null,
    conformal: [0.5],
  } as const;
  const made = fc.option(fc.record({ head: bytes, delta: fc.option(bytes), plan: fc.constantFrom(null, plan) }));
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
  const stages: fc.Arbitrary<Stages> = fc.record({
    embeddings: fc.integer({ min: 0, max: 5 }).map((count) => {
      const rows = makeRows(3);
      for (let i = 0; i < count; i++) rows.push(Float32Array.of(i, i / 3, -i));
      return rows;
    }),
    made: fc.oneof(fc.constant({}), fc.record({ head: made }), fc.record({ head: made, fine_tuned: made })),
    judgement: fc.constantFrom(null, judgement),
    told: fc.constantFrom(null, { plan, assessment }),
    fitted: fc.option(
      fc
        .tuple(bytes, fc.option(bytes))
        .map(
          ([head, delta]) =>
            ({ candidate: "head", training, evaluation: { method: "none" }, parameters: 7, head, delta }) as const,
        ),
    ),
  });
  const possible = stages.filter(({ judgement, fitted }) => judgement !== null || fitted === null);
  const rowsOf = ({ embeddings }: Stages) =>
    Array.from({ length: embeddings?.count() ?? 0 }, (_, row) => [...(embeddings?.at(row) ?? [])]);

  it("gives back what later stages need, and nothing when it is cut or of something else", () => {
    fc.assert(
      fc.property(possible, fc.nat(), (given, cut) => {
        const parts = encodeStages(given, "this");
        if (parts === null) {
          expect([rowsOf(given), given.judgement]).toEqual([[], null]);
          return;
        }
        const whole = Buffer.concat(parts);
        const read = decodeStages(whole, "this", 3);
        expect(read?.made).toEqual(given.judgement === null ? given.made : {});
        expect(read && rowsOf(read)).toEqual(given.fitted === null ? rowsOf(given) : []);
        expect([read?.judgement, read?.told, read?.fitted]).toEqual([given.judgement, given.told, given.fitted]);
        expect(decodeStages(whole, "that", 3)).toBeNull();
        expect(decodeStages(whole.subarray(0, cut % whole.length), "this", 3)).toBeNull();
      }),
    );
  });

  it("of nothing is none", () => {
    expect(encodeStages(noStages(), "this")).toBeNull();
    expect(decodeStages(Buffer.alloc(0), "this", 3)).toBeNull();
  });
});

describe("the comparison", () => {
  /** A head of one dimension, whose outputs are x times the weights. */
  const head = (task: Task, labels: readonly string[], ...weights: number[]): Head => ({
    task,
    labels,
    dimensions: 1,
    weights: Float32Array.from(weights),
    bias: new Float32Array(weights.length),
    lexical: null,
    offset: 0,
    temperature: 1,
    outOfScopeThreshold: null,
    conformal: new Float32Array(0),
  });
  const material = (
    task: Task,
    inputs: readonly number[],
    targets: Examples["targets"],
    outOfScope: string | null = null,
  ) => {
    const rows = makeRows(1);
    for (const x of inputs) rows.push(Float32Array.of(x));
    return {
      submission: { ...submissionOf(), task, out_of_scope_label: outOfScope },
      examples: { texts: [], targets },
      embed: (row: number) => rows.at(row),
      turn: async () => undefined,
    } as unknown as Material;
  };

  const compare = async (given: Material, rows: readonly number[], frozen: Head, fineTuned: Head) => {
    const answers = async (head: Head): Promise<Answers> => ({
      head,
      outputs: await predictions(given, rows, { head, embed: given.embed }),
    });
    return compareHeads(given, rows, await answers(frozen), await answers(fineTuned));
  };

  it("counts labels that are the most probable, and leaves out those out of scope", async () => {
    const given = material("single_label", [1, -1, 1, 1], ["a", "b", "none", "c"], "none");
    const right = head("single_label", ["a", "b"], 1, -1);
    const onlyA = head("single_label", ["a", "b"], 0, 0);
    expect(await compare(given, [0, 1, 2, 3], onlyA, right)).toEqual({
      test_examples: 3,
      head_accuracy: 1 / 3,
      fine_tuned_accuracy: 2 / 3,
      only_head: 0,
      only_fine_tuned: 1,
    });
  });

  it("counts sets of labels that are right as a whole", async () => {
    const given = material("multi_label", [1, -1, 1], [["a"], ["b"], ["a", "b"]]);
    const apart = head("multi_label", ["a", "b"], 1, -1);
    const both = head("multi_label", ["a", "b"], 1, 1);
    expect(await compare(given, [0, 1, 2], apart, both)).toEqual({
      test_examples: 3,
      head_accuracy: 2 / 3,
      fine_tuned_accuracy: 1 / 3,
      only_head: 2,
      only_fine_tuned: 1,
    });
  });

  it("counts values that are nearer, and those alike for neither", async () => {
    const given = material("regression", [0, 1, 2, 3], [0, 1, 2, 3]);
    const [zero, right] = [head("regression", [], 0), head("regression", [], 1)];
    expect(await compare(given, [0, 1, 2, 3], zero, right)).toEqual({
      test_examples: 4,
      head_accuracy: expect.closeTo(1 - 14 / 5),
      fine_tuned_accuracy: 1,
      only_head: 0,
      only_fine_tuned: 3,
    });
  });
});
