/** What a batch endpoint makes of jobs, and what it answers to the Worker. */
import { describe, expect, it } from "vitest";
import { decodeDelta } from "../../src/backbones/fine-tuned-static.ts";
import { hashText } from "../../src/backbones/hash-text.ts";
import { textStatic, textUse } from "../../src/backbones/node.ts";
import { decodeHead, encodeHead } from "../../src/core/codec.ts";
import type { Evaluation } from "../../src/core/evaluation/evaluation.ts";
import { predict } from "../../src/core/head.ts";
import { train } from "../../src/core/linear/train.ts";
import { createLexicalVectorizer } from "../../src/core/text/lexical.ts";
import type { Artifact, Submission } from "../../src/jobs/protocol.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { decodeFloats, embeddingOptions, makeEmbeddings, makeSubmission, makeTexts, newJobId } from "./batch-data.ts";
import { poll, setUpHarness } from "./batch-harness.ts";
import { type DataRow, neverRespond, progressMessages, secret, sendSigned, stop, submit } from "./fake-worker.ts";

const harness = setUpHarness();

/** Runs a job to its end and answers what it told and the head that it made. */
async function runJob(url: string, submission: Submission, lines: readonly DataRow[]) {
  harness.worker.addJob(submission, lines);
  expect((await submit(url, submission)).status).toBe(202);
  const { manifest } = await harness.worker.waitForMessage("finished", submission.id, submission.attempt);
  const head = decodeHead(harness.worker.artifacts.get(manifest.artifact.sha256) as Buffer);
  if (head === null) throw new Error("No head was made.");
  const { judgement } = await harness.worker.waitForMessage("evaluated", submission.id, submission.attempt);
  return { manifest, judgement, head, told: harness.worker.messages(submission.id, submission.attempt) };
}

describe("a job", () => {
  it("of one label learns texts, and refuses those out of scope", async () => {
    const { url } = await harness.start();
    const lines = makeTexts(240, (topic) => (topic === "food" ? "other" : topic));
    const hyperparameters = { l2: "auto", class_weight: "balanced", lexical: true, seed: 3 } as const;
    const submission = makeSubmission({
      out_of_scope_label: "other",
      hyperparameters,
      evaluation: { method: "holdout" },
    });
    const { manifest, judgement, head, told } = await runJob(url, submission, lines);
    expect(head.labels).toEqual(["money", "travel"]);
    expect(head.outOfScopeThreshold).toEqual(expect.any(Number));
    const heldOutCount = lines.filter(({ held_out, target }) => held_out && target !== "other").length;
    expect(judgement).toEqual({
      test_examples: heldOutCount,
      head_accuracy: 1,
      fine_tuned_accuracy: 1,
      only_head: 0,
      only_fine_tuned: 0,
    });
    expect(manifest).toMatchObject({
      candidate: "fine_tuned",
      dataset: { revision: 7, examples: 240 },
      training: { examples: 160, lexical: true, converged: true },
      evaluation: { method: "holdout", accuracy: 1 },
    });
    const text = "a refund for the charge on the card";
    const [row] = (await hashText.embed([text])).rows;
    const features = head.lexical && createLexicalVectorizer(head.lexical)(text);
    expect(predict(head, row as Float32Array, features)[0]).toBeGreaterThan(0.5);
    expect(progressMessages(told).slice(0, 2)).toEqual([
      "Read 240 examples.",
      "Trained the frozen head on 128 examples.",
    ]);
    const steps = told.flatMap((message) => ("step" in message ? [message.step] : []));
    expect(steps).toEqual([...steps.keys()]);
    const losses = told.flatMap((message) =>
      message.type === "progress" && message.message.startsWith("Step ") ? [message.metrics.train_loss as number] : [],
    );
    expect(losses.length).toBeGreaterThan(0);
    expect(losses).toEqual([...losses].sort((a, b) => b - a));
  });

  it("of any labels learns texts", async () => {
    const { url } = await harness.start();
    const lines = makeTexts(150, (topic, i) => (i % 2 ? [topic, "odd"] : [topic]));
    const { head, judgement } = await runJob(url, makeSubmission({ task: "multi_label" }), lines);
    expect(head.labels).toEqual(["food", "money", "odd", "travel"]);
    expect(judgement.test_examples).toBe(30);
  });

  it("of values learns embeddings", async () => {
    const { url } = await harness.start();
    const submission = makeSubmission({ ...embeddingOptions, task: "regression" });
    const lines = makeEmbeddings(200, (value) => 3 * value + 100);
    const { head, manifest, judgement } = await runJob(url, submission, lines);
    expect(judgement.fine_tuned_accuracy).toBeGreaterThan(0.99);
    expect(manifest.evaluation?.r2).toBeGreaterThan(0.99);
    for (const { embedding, target } of lines.slice(0, 5))
      expect(predict(head, decodeFloats(embedding))[0]).toBeCloseTo(target as number, 1);
  });

  it("makes the very head that a training on the same data makes, every time", async () => {
    const { url } = await harness.start({ capacity: 2 });
    const lines = makeEmbeddings(120, (value) => (value > 0 ? "up" : "down"));
    const submission = makeSubmission({ ...embeddingOptions, evaluation: { method: "cross_validation", folds: 4 } });
    const repeated = { ...submission, id: newJobId() };
    const [first, second] = await Promise.all([runJob(url, submission, lines), runJob(url, repeated, lines)]);
    expect(second.manifest.artifact).toEqual(first.manifest.artifact);

    const tensors = await nodeTensorBackend();
    const rows = Float32Array.from(lines.flatMap(({ embedding }) => [...decodeFloats(embedding)]));
    const steps = train(
      tensors,
      {
        task: "single_label",
        dimensions: 8,
        labels: ["down", "up"],
        features: [tensors.matrix(120, 8, rows)],
        targets: { kind: "single", indices: Int32Array.from(lines, ({ target }) => (target === "up" ? 1 : 0)) },
        groups: Int32Array.from(lines.keys()),
      },
      {
        l2: "auto",
        classWeight: null,
        seed: 1,
        evaluation: { method: "cross_validation", folds: 4 },
        budget: { bytes: 1e9, operations: 1e13 },
      },
    );
    let step = steps.next();
    while (!step.done) step = steps.next();
    if (!step.value.ok) throw new Error(step.value.failure.message);
    expect(Buffer.from(encodeHead(step.value.value.head))).toEqual(
      harness.worker.artifacts.get(first.manifest.artifact.sha256),
    );
  });

  it("beyond the edge compares all rows with as many as the edge could train on", async () => {
    const { url } = await harness.start({ capacity: 2 });
    const lines = makeEmbeddings(600, (value) => (value > 0.2 ? "up" : value < -0.2 ? "down" : "same"));
    const submission = makeSubmission({ ...embeddingOptions, edge_budget: { bytes: 40_000, operations: 1e12 } });
    const { told, manifest, judgement } = await runJob(url, submission, lines);
    const [head, fineTuned] = progressMessages(told, "Trained");
    const sample = Number(/^Trained the frozen head on (\d+) examples\.$/.exec(head ?? "")?.[1]);
    expect(sample).toBeGreaterThan(10);
    expect(sample).toBeLessThan(400);
    expect(fineTuned).toBe("Trained the fine-tuned candidate on 480 examples.");
    expect(manifest.training.examples).toBe(600);
    expect(judgement.test_examples).toBe(120);
    expect(judgement.fine_tuned_accuracy - judgement.head_accuracy).toBeCloseTo(
      (judgement.only_fine_tuned - judgement.only_head) / 120,
    );

    harness.worker.getDirective = (message) => (message.type === "evaluated" ? { refit: "head" } : {});
    const other = await runJob(url, { ...submission, id: newJobId() }, lines);
    expect(other.judgement).toEqual(judgement);
    expect(other.manifest).toMatchObject({ candidate: "head", dataset: { examples: 600 } });
    expect(other.manifest.training.examples).toBeLessThan(400);
  });

  describe("of layers", () => {
    const layerOptions = {
      trainable: "all",
      backbone: { id: textStatic.id, revision: textStatic.revision },
      dimensions: textStatic.dimensions,
    } as const;

    it("uploads what was trained of the backbone beside the head, and says of it what the held-out rows told", async () => {
      const { url } = await harness.start();
      const { manifest, judgement, told } = await runJob(url, makeSubmission(layerOptions), makeTexts(300));
      expect(judgement).toMatchObject({ test_examples: 60, head_accuracy: 1, fine_tuned_accuracy: 1 });
      expect(manifest).toMatchObject({
        candidate: "fine_tuned",
        evaluation: { method: "holdout", accuracy: 1, examples: 60 },
        backbone: { dimensions: 2 * textStatic.dimensions },
        dataset: { examples: 300 },
      });
      const delta = harness.worker.artifacts.get(manifest.backbone?.artifact.sha256 ?? "");
      expect(delta && decodeDelta(delta)?.base).toEqual(layerOptions.backbone);
      expect(progressMessages(told, "Epoch 1 of").length).toBe(2);
    });

    it("that no head at the edge could stand beside are judged by nothing, and still say what the held-out rows told", async () => {
      const { url } = await harness.start();
      const submission = makeSubmission({ ...layerOptions, edge_budget: { bytes: 1, operations: 1 } });
      const { manifest, judgement, told } = await runJob(url, submission, makeTexts(300));
      expect(judgement.test_examples).toBe(0);
      expect(manifest.evaluation).toMatchObject({ method: "holdout", accuracy: 1, examples: 60 });
      // The last training goes as far as the one that was judged did best, of what follows the first third.
      const epochCount = Number(/ of (\d+)/.exec(progressMessages(told, "Epoch 1 of")[0] ?? "")?.[1]);
      const epochs = told.flatMap((message) =>
        message.type === "progress" && message.metrics.epoch ? [message.metrics] : [],
      );
      const losses = epochs.flatMap(({ valid_loss }) => (valid_loss === undefined ? [] : [valid_loss]));
      const lateLosses = losses.slice(Math.ceil(epochCount / 3) - 1);
      expect(epochs.length - losses.length).toBe(losses.indexOf(Math.min(...lateLosses)) + 1);
    });

    it("of an encoder goes on from the last epoch whose state was saved", async () => {
      const { url } = await harness.start({ operationsPerSave: 1 });
      harness.worker.partBytes = 2 ** 24;
      const lines = makeTexts(90);
      const submission = makeSubmission({
        backbone: { id: textUse.id, revision: textUse.revision },
        dimensions: textUse.dimensions,
        trainable: { last_layers: 2 },
        hyperparameters: { ...makeSubmission().hyperparameters, epochs: 2 },
      });
      const told = (attempt: number) => progressMessages(harness.worker.messages(submission.id, attempt));
      // The first attempt stands still when it has saved a state, until it is killed because the second takes its place.
      const saved = Promise.withResolvers<Artifact>();
      harness.worker.intercept = ({ message }) => {
        if (message?.type !== "checkpoint" || told(1).at(-1) !== "Epoch 1 of 2.") return null;
        saved.resolve(message.artifact);
        return new Promise<Response>(() => undefined);
      };
      await submit(url, harness.worker.addJob(submission, lines));
      const checkpoint = await saved.promise;
      expect(checkpoint.bytes).toBeGreaterThan(1e7);
      harness.worker.intercept = () => null;
      const { manifest } = await runJob(url, { ...submission, attempt: 2, checkpoint }, lines);
      expect(told(2).slice(1)).toEqual([
        "Goes on from a checkpoint.",
        "Goes on after epoch 1, from a checkpoint.",
        "Epoch 2 of 2.",
        "Epoch 1 of 2.",
        "Epoch 2 of 2.",
      ]);
      expect(manifest).toMatchObject({ candidate: "fine_tuned", backbone: { dimensions: textUse.dimensions } });
    });
  });

  describe("that is cross-fitted", () => {
    const layerOptions = {
      comparison: "cross_fit",
      trainable: "all",
      backbone: { id: textStatic.id, revision: textStatic.revision },
      dimensions: textStatic.dimensions,
    } as const;
    const shortOptions = { ...layerOptions, hyperparameters: { ...makeSubmission().hyperparameters, epochs: 8 } };

    it("is judged on every example, by candidates that have not seen it, and told by them alone", async () => {
      const { url } = await harness.start();
      const other = makeTexts(90, (topic) => (topic === "food" ? "other" : topic));
      const submission = makeSubmission({ ...shortOptions, out_of_scope_label: "other" });
      const { manifest, judgement, head, told } = await runJob(url, submission, other);
      expect(judgement).toMatchObject({ test_examples: 60, only_head: 0 });
      expect(judgement.fine_tuned_accuracy).toBeGreaterThan(0.9);
      // Few examples have an evaluation too.
      expect(manifest.evaluation).toMatchObject({
        method: "cross_validation",
        folds: 5,
        examples: 60,
        accuracy: judgement.fine_tuned_accuracy,
        out_of_scope: { expected_recall: expect.any(Number) },
      });
      expect(manifest.training.temperature).toBe(head.temperature);
      expect(head.temperature).not.toBe(1);
      expect(head.conformal).toHaveLength(60);
      expect(head.outOfScopeThreshold).toEqual(expect.any(Number));
      expect(head.scope?.examples).toBe(60);
      expect(head.scope?.figures.map(({ name }) => name)).toContain("distance");
      expect(head.scope?.centroids?.dimensions).toBe(head.dimensions);
      expect(progressMessages(told, "Fold")).toEqual(
        [1, 2, 3, 4, 5].map((fold) => `Fold ${fold} of 5: 72 examples to train on, 18 to compare on.`),
      );
      const [read] = told.flatMap((message) => (message.type === "progress" ? [message.metrics] : []));
      expect(read).toEqual({ examples: 90, held_out: 90 });
    });

    it.each([
      ["a head", {}],
      ["layers", { ...layerOptions, hyperparameters: { ...makeSubmission().hyperparameters, epochs: 2 } }],
    ])("of %s names the examples that it confuses by their ids", async (_name, options) => {
      const { url } = await harness.start();
      const named = makeTexts(60, (topic, i) => (i % 10 === 0 ? "travel" : topic)).map((line, i) => ({
        ...line,
        id: `ex_${i}`,
      }));
      const { manifest } = await runJob(url, makeSubmission({ comparison: "cross_fit", ...options }), named);
      const { confused = [] } = manifest.evaluation as unknown as Evaluation;
      expect(confused.length).toBeGreaterThan(0);
      for (const { label, count, examples } of confused) {
        expect(examples).toHaveLength(Math.min(3, count));
        for (const id of examples) expect(named.find((line) => line.id === id)?.target).toBe(label);
      }
    });

    it("of 500 examples is compared in two folds, and goes as far along the schedule as these did on average", async () => {
      const { url } = await harness.start();
      const { told } = await runJob(url, makeSubmission(layerOptions), makeTexts(500));
      const trainings = progressMessages(told, "Epoch 1 of").map((message) => Number(/ of (\d+)/.exec(message)?.[1]));
      expect(trainings).toHaveLength(3);
      const epochs = told.flatMap((message) =>
        message.type === "progress" && message.metrics.epoch ? [message.metrics] : [],
      );
      const starts = epochs.flatMap(({ epoch }, i) => (epoch === 1 ? [i] : []));
      const bestEpochs = starts.slice(0, 2).map((start, fold) => {
        const losses = epochs.slice(start, starts[fold + 1]).map(({ valid_loss }) => valid_loss as number);
        const first = Math.ceil((trainings[fold] as number) / 3) - 1;
        return 1 + losses.indexOf(Math.min(...losses.slice(first)));
      });
      const [first = 0, second = 0] = bestEpochs;
      expect(trainings[2]).toBe(Math.round((24 * (first + second)) / ((trainings[0] ?? 0) + (trainings[1] ?? 0))));
    });

    it("of any labels or of values is judged on every example too", async () => {
      const { url } = await harness.start({ capacity: 2 });
      const options = { ...shortOptions, trainable: { last_layers: 2 } };
      const labels = makeTexts(90, (topic, i) => (i === 4 ? [topic, "once"] : [topic]));
      const values = makeTexts(90, (topic) => topic.length);
      const [many, numbers] = await Promise.all([
        runJob(url, makeSubmission({ ...options, task: "multi_label" }), labels),
        runJob(url, makeSubmission({ ...options, task: "regression" }), values),
      ]);
      expect(many.head.labels).toEqual(["food", "money", "once", "travel"]);
      expect(many.head.thresholds).toHaveLength(4);
      // The only example of a label is in no fold.
      expect(many.judgement.test_examples).toBe(89);
      expect(numbers.judgement).toMatchObject({ test_examples: 90, gain_error: expect.any(Number) });
      expect(numbers.manifest.evaluation?.r2).toBeCloseTo(numbers.judgement.fine_tuned_accuracy, 6);
    });

    it("of a sample is judged on that alone, and ends with it", async () => {
      const { url } = await harness.start();
      const submission = makeSubmission({ ...shortOptions, sample: 60 });
      harness.worker.getDirective = ({ type, id }) =>
        type === "evaluated" && id === submission.id ? { directive: "end", refit: null } : {};
      await submit(url, harness.worker.addJob(submission, makeTexts(120)));
      const { judgement, cost } = await harness.worker.waitForMessage("evaluated", submission.id);
      expect(judgement).toMatchObject({ test_examples: 60, head_accuracy: 1 });
      expect(cost?.operations).toBeGreaterThan(1e6);
      expect(cost?.milliseconds).toBeGreaterThan(0);
      await poll(async () => (await submit(url, submission)).status).toBe(200);
      const told = harness.worker.messages(submission.id);
      expect(told.at(-1)?.type).toBe("evaluated");
      expect(progressMessages(told, "Read")).toEqual(["Read 60 examples."]);
    });

    it("of two examples of each label is judged on all four", async () => {
      const { url } = await harness.start();
      const lines = makeTexts(6).filter(({ target }) => target !== "food");
      const { judgement, manifest, told } = await runJob(url, makeSubmission(shortOptions), lines);
      expect(judgement.test_examples).toBe(4);
      expect(manifest.training.examples).toBe(4);
      const folds = progressMessages(told, "Fold").length;
      expect(folds).toBeGreaterThanOrEqual(2);
      expect(progressMessages(told, "Trained the frozen head")).toHaveLength(folds);
    });

    it.each([
      ["no class has two examples", makeTexts(60, (_, i) => `${i}`)],
      ["all inputs are the same", makeTexts(60).map((line) => ({ ...line, group: "same" }))],
    ])("is judged by nothing where %s, and trained all the same", async (_, lines) => {
      const { url } = await harness.start();
      const { judgement, manifest } = await runJob(url, makeSubmission({ comparison: "cross_fit" }), lines);
      expect(judgement.test_examples).toBe(0);
      expect(manifest.training.examples).toBe(60);
    });
  });

  it.each([
    ["no row is held out", makeTexts(60).map((line) => ({ ...line, held_out: false }))],
    ["a label vanishes with them", makeTexts(60, (_, i) => (i % 5 === 0 ? "held" : "rest"))],
    ["all rows are held out", makeTexts(60).map((line) => ({ ...line, held_out: true }))],
  ])("is judged by nothing where %s, and trained all the same", async (_, lines) => {
    const { url } = await harness.start();
    const { judgement, manifest } = await runJob(url, makeSubmission(), lines);
    expect(judgement.test_examples).toBe(0);
    expect(manifest.training.examples).toBe(60);
  });

  it.each<[string, Partial<Submission>, DataRow[], RegExp]>([
    ["has one label", {}, makeTexts(30, () => "only"), /at least two labels/],
    [
      "lacks a text",
      {},
      [{ ...(makeTexts(1)[0] as DataRow), text: undefined }] as never,
      /^Line 1 of the data has no text\.$/,
    ],
    [
      "has other embeddings",
      embeddingOptions,
      makeTexts(9),
      /^Line 1 of the data has no embedding of 8 finite numbers\.$/,
    ],
    [
      "has values for labels",
      {},
      makeTexts(9, (_, i) => i),
      /^Line 1 of the data has a target that is none of the task/,
    ],
    [
      "has class weights for many labels",
      { task: "multi_label", hyperparameters: { ...makeSubmission().hyperparameters, class_weight: "balanced" } },
      makeTexts(30, (topic) => [topic]),
      /class_weight/,
    ],
  ])("that %s fails for good", async (_, overrides, lines, message) => {
    const { url } = await harness.start();
    const submission = harness.worker.addJob(makeSubmission(overrides), lines);
    await submit(url, submission);
    const failed = await harness.worker.waitForMessage("failed", submission.id);
    expect(failed.message).toMatch(message);
    expect(failed.retryable).toBe(false);
  });

  it.each<[string, { bytes: number; operations: number }, RegExp]>([
    ["memory", { bytes: 50_000, operations: 1e13 }, /^The data take more than the 50000 bytes/],
    ["operations", { bytes: 1e9, operations: 1e6 }, /^This training takes .* where the batch endpoint allows /],
  ])("beyond the endpoint's %s fails for good, before any work", async (_, budget, message) => {
    const { url } = await harness.start({ budget });
    const submission = harness.worker.addJob(makeSubmission(), makeTexts(200));
    await submit(url, submission);
    const failed = await harness.worker.waitForMessage("failed", submission.id);
    expect(failed.message).toMatch(message);
    expect(failed.retryable).toBe(false);
    expect(progressMessages(harness.worker.messages(submission.id), "Embedded")).toEqual([]);
  });

  it("uploads in parts what is too large for one", async () => {
    const { url } = await harness.start({ maxSingleUploadBytes: 500 });
    harness.worker.partBytes = 700;
    const { manifest } = await runJob(url, makeSubmission(), makeTexts(60));
    expect(manifest.artifact.bytes).toBeGreaterThan(2 * 700);
    expect(harness.worker.calls.filter(({ method, path }) => method === "PUT" && !path.includes("/uploads/"))).toEqual([
      // Of the comparison alone.
      expect.objectContaining({ path: expect.stringMatching(/^artifacts\//) }),
    ]);
  });
});

describe("a submission", () => {
  it("sent again runs once, and has ended when it has", async () => {
    const { url } = await harness.start();
    const submission = harness.worker.addJob(makeSubmission(), makeTexts(60));
    const answers = await Promise.all([submit(url, submission), submit(url, submission), submit(url, submission)]);
    for (const answer of answers) {
      expect(answer.status).toBe(202);
      expect(await answer.json()).toEqual({
        object: "batch.attempt",
        id: submission.id,
        attempt: 1,
        status: "running",
      });
    }
    await harness.waitForLog("ended finished");
    expect(harness.worker.calls.filter(({ path }) => path === "data")).toHaveLength(1);
    await poll(async () => (await submit(url, submission)).status).toBe(200);
    expect(await (await submit(url, submission)).json()).toMatchObject({ status: "ended" });
    expect(harness.records()).toEqual([]);
  });

  it.each([
    ["by another secret", { signingSecret: `whsec_${Buffer.alloc(24).toString("base64")}` }],
    ["too long ago", { shift: -301_000 }],
    ["in the future", { shift: 302_000 }],
  ])("signed %s is not heard", async (_, { shift = 0, ...signing }: { signingSecret?: string; shift?: number }) => {
    const { url } = await harness.start();
    const submission = makeSubmission();
    const answer = await sendSigned(url, "PUT", `/v1/jobs/${submission.id}/attempts/1`, submission, {
      ...signing,
      now: Date.now() + shift,
    });
    expect(answer.status).toBe(401);
    expect(await answer.json()).toEqual({ error: { message: expect.any(String), code: "invalid_signature" } });
    expect((await fetch(`${url}/v1/jobs/${submission.id}/attempts/1`, { method: "PUT", body: "{}" })).status).toBe(401);
  });

  it("that was seen before is not heard again, whatever it says", async () => {
    const { url } = await harness.start();
    const submission = makeSubmission();
    const path = `/v1/jobs/${submission.id}/attempts/1/stop`;
    const body = { object: "batch.stop", id: submission.id, attempt: 1, action: "cancel" };
    expect((await sendSigned(url, "POST", path, body, { id: "msg_1" })).status).toBe(200);
    expect((await sendSigned(url, "POST", path, body, { id: "msg_1" })).status).toBe(409);
    expect((await sendSigned(url, "POST", path, body, { id: "msg_2" })).status).toBe(200);
  });

  it("signed by the secret before is heard while that is known", async () => {
    const previousSecret = `whsec_${Buffer.alloc(24, "b").toString("base64")}`;
    const { url } = await harness.start({ secrets: [secret, previousSecret] });
    const submission = makeSubmission();
    const body = { object: "batch.stop", id: submission.id, attempt: 1, action: "cancel" };
    const answer = await sendSigned(url, "POST", `/v1/jobs/${submission.id}/attempts/1/stop`, body, {
      signingSecret: previousSecret,
    });
    expect(await answer.json()).toMatchObject({ id: submission.id, attempt: 1, status: "ended" });
  });

  const submission = makeSubmission();
  it.each<[string, string, unknown, RegExp]>([
    ["no submission", submission.id, { object: "batch.job" }, /^The body is not as agreed: 'id'/],
    ["null", submission.id, null, /^The body is not as agreed/],
    ["for another job", newJobId(), submission, /names another attempt/],
    [
      "of an unknown backbone",
      submission.id,
      { ...submission, backbone: { id: "none", revision: "1" } },
      /no backbone 'none'/,
    ],
    [
      "of another revision",
      submission.id,
      { ...submission, backbone: { id: "hash-text-1", revision: "2" } },
      /of revision '2'/,
    ],
    ["of other dimensions", submission.id, { ...submission, dimensions: 8 }, /384 dimensions, not 8/],
    ["of texts without a backbone", submission.id, { ...submission, backbone: null }, /need a backbone/],
    ["of embeddings with one", submission.id, { ...submission, modality: "embedding" }, /need no backbone/],
  ])("that is %s is refused", async (_, id, body, message) => {
    const { url } = await harness.start();
    const answer = await sendSigned(url, "PUT", `/v1/jobs/${id}/attempts/1`, body);
    expect(answer.status).toBe(422);
    const { error } = (await answer.json()) as { error: { message: string } };
    expect(error.message).toMatch(message);
  });

  it("that is too large is refused, and so is what is no route", async () => {
    const { url } = await harness.start();
    const largeSubmission = { ...submission, tenant: "x".repeat(300_000) };
    expect((await sendSigned(url, "PUT", `/v1/jobs/${submission.id}/attempts/1`, largeSubmission)).status).toBe(413);
    expect((await fetch(`${url}/v1/jobs`)).status).toBe(404);
  });
});

describe("places", () => {
  it("are one more for small jobs, which run beside a large one", async () => {
    const { url } = await harness.start();
    neverRespond(harness.worker, (path) => path === "data");
    const job = (operations: number) =>
      harness.worker.addJob(makeSubmission({ ...embeddingOptions, estimate: { operations, bytes: 1e6 } }), []);
    const [large, larger, small, smaller] = [job(1e13), job(1e14), job(1e10), job(1e9)];
    const statuses: number[] = [];
    for (const each of [large, larger, small, smaller]) statuses.push((await submit(url, each)).status);
    expect(statuses).toEqual([202, 429, 202, 429]);
    expect(await (await fetch(`${url}/health`)).json()).toEqual({ status: "ok", running: 2, capacity: 1 });
    await stop(url, small, "cancel");
    await poll(async () => (await submit(url, smaller)).status).toBe(202);
    expect((await submit(url, larger)).status).toBe(429);
  });

  it("go round the tenants", async () => {
    const { url } = await harness.start();
    neverRespond(harness.worker, (path) => path === "data");
    const job = (tenant: string, created_at: number) =>
      harness.worker.addJob(makeSubmission({ ...embeddingOptions, tenant, created_at }), []);
    const [first, second, third, other] = [job("a", 1), job("a", 3), job("a", 2), job("b", 9)];
    expect((await submit(url, first)).status).toBe(202);
    expect(await (await fetch(`${url}/health`)).json()).toEqual({ status: "ok", running: 1, capacity: 1 });
    for (const queuedJob of [second, third, other]) {
      const answer = await submit(url, queuedJob);
      expect([answer.status, answer.headers.get("retry-after")]).toEqual([429, "1"]);
      expect(await answer.json()).toMatchObject({ error: { code: "capacity_exceeded" } });
    }
    const isFree = async (runningJob: Submission) => {
      expect((await stop(url, runningJob, "cancel")).status).toBe(202);
      await poll(async () => (await fetch(`${url}/health`)).json()).toMatchObject({ running: 0 });
    };
    await isFree(first);
    expect((await submit(url, second)).status).toBe(429);
    expect((await submit(url, third)).status).toBe(429);
    expect((await submit(url, other)).status).toBe(202);
    await isFree(other);
    expect((await submit(url, second)).status).toBe(429);
    expect((await submit(url, third)).status).toBe(202);
    await isFree(third);
    expect((await submit(url, second)).status).toBe(202);
    expect(harness.worker.messages(first.id).map(({ type }) => type)).toEqual(["stopped"]);
  });

  it("are given to a newer attempt of a job, whose older one is dropped without a word", async () => {
    const { url } = await harness.start();
    neverRespond(harness.worker, (path) => path === "data");
    const first = harness.worker.addJob(makeSubmission(), []);
    await submit(url, first);
    const second = harness.worker.addJob({ ...first, attempt: 2 }, makeTexts(30));
    expect((await submit(url, second)).status).toBe(202);
    expect(await (await submit(url, first)).json()).toMatchObject({ attempt: 1, status: "ended" });
    expect(harness.records()).toEqual([`${first.id}.2.json`]);
    expect(harness.worker.messages(first.id, 1)).toEqual([]);
  });

  it("are not given any more once the endpoint is to stop", async () => {
    const endpoint = await harness.start({ graceMs: 300 });
    const submission = harness.worker.addJob(makeSubmission(), makeTexts(30));
    neverRespond(harness.worker, (path) => path === "data" || path === "messages");
    await submit(endpoint.url, submission);
    const stopped = endpoint.stop();
    expect(await (await fetch(`${endpoint.url}/health`)).json()).toMatchObject({ status: "stopping", running: 1 });
    const other = await submit(endpoint.url, makeSubmission());
    expect([other.status, other.headers.get("retry-after")]).toEqual([503, "5"]);
    await stopped;
    // Nobody could be told that it is lost: that is left to the next.
    expect(harness.records()).toEqual([`${submission.id}.1.json`]);
  });
});
