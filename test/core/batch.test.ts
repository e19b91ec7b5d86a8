/** What a batch endpoint makes of jobs, and what it answers to the Worker. */
import { describe, expect, it } from "vitest";
import { decodeDelta } from "../../src/backbones/fine-tuned.ts";
import { hashText } from "../../src/backbones/hash-text.ts";
import { textStatic } from "../../src/backbones/node.ts";
import { decodeHead, encodeHead } from "../../src/core/codec.ts";
import { predict } from "../../src/core/head.ts";
import { lexicalFeatures } from "../../src/core/text/lexical.ts";
import { train } from "../../src/core/linear/train.ts";
import type { Submission } from "../../src/jobs/protocol.ts";
import { nodeTensors } from "../../src/tensor/node.ts";
import { embeddings, floats, jobId, ofEmbeddings, submissionOf, texts } from "./batch-data.ts";
import { harness, soon } from "./batch-harness.ts";
import { call, hang, type Line, progressOf, secret, stop, submit } from "./batch-worker.ts";

const h = harness();

/** Runs a job to its end and answers what it told and the head that it made. */
async function run(url: string, given: Submission, lines: readonly Line[]) {
  h.worker.offer(given, lines);
  expect((await submit(url, given)).status).toBe(202);
  const { manifest } = await h.worker.until("finished", given.id, given.attempt);
  const head = decodeHead(h.worker.artifacts.get(manifest.artifact.sha256) as Buffer);
  if (head === null) throw new Error("No head was made.");
  const { judgement } = await h.worker.until("evaluated", given.id, given.attempt);
  return { manifest, judgement, head, told: h.worker.messages(given.id, given.attempt) };
}

describe("a job", () => {
  it("of one label learns texts, and refuses those out of scope", async () => {
    const { url } = await h.start();
    const lines = texts(240, (topic) => (topic === "food" ? "other" : topic));
    const hyperparameters = { l2: "auto", class_weight: "balanced", lexical: true, seed: 3 } as const;
    const given = submissionOf({ out_of_scope_label: "other", hyperparameters, evaluation: { method: "holdout" } });
    const { manifest, judgement, head, told } = await run(url, given, lines);
    expect(head.labels).toEqual(["money", "travel"]);
    expect(head.outOfScopeThreshold).toEqual(expect.any(Number));
    const held = lines.filter(({ held_out, target }) => held_out && target !== "other").length;
    expect(judgement).toEqual({
      test_examples: held,
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
    const features = head.lexical && lexicalFeatures(head.lexical)(text);
    expect(predict(head, row as Float32Array, features)[0]).toBeGreaterThan(0.5);
    expect(progressOf(told).slice(0, 2)).toEqual(["Read 240 examples.", "Trained the frozen head on 128 examples."]);
    const steps = told.flatMap((each) => ("step" in each ? [each.step] : []));
    expect(steps).toEqual([...steps.keys()]);
    const losses = told.flatMap((each) =>
      each.type === "progress" && each.message.startsWith("Step ") ? [each.metrics.train_loss as number] : [],
    );
    expect(losses.length).toBeGreaterThan(0);
    expect(losses).toEqual([...losses].sort((a, b) => b - a));
  });

  it("of any labels learns texts", async () => {
    const { url } = await h.start();
    const lines = texts(150, (topic, i) => (i % 2 ? [topic, "odd"] : [topic]));
    const { head, judgement } = await run(url, submissionOf({ task: "multi_label" }), lines);
    expect(head.labels).toEqual(["food", "money", "odd", "travel"]);
    expect(judgement.test_examples).toBe(30);
  });

  it("of values learns embeddings", async () => {
    const { url } = await h.start();
    const given = submissionOf({ ...ofEmbeddings, task: "regression" });
    const lines = embeddings(200, (value) => 3 * value + 100);
    const { head, manifest, judgement } = await run(url, given, lines);
    expect(judgement.fine_tuned_accuracy).toBeGreaterThan(0.99);
    expect(manifest.evaluation?.r2).toBeGreaterThan(0.99);
    for (const { embedding, target } of lines.slice(0, 5))
      expect(predict(head, floats(embedding))[0]).toBeCloseTo(target as number, 1);
  });

  it("makes the very head that a training on the same data makes, every time", async () => {
    const { url } = await h.start({ capacity: 2 });
    const lines = embeddings(120, (value) => (value > 0 ? "up" : "down"));
    const given = submissionOf({ ...ofEmbeddings, evaluation: { method: "cross_validation", folds: 4 } });
    const again = { ...given, id: jobId() };
    const [first, second] = await Promise.all([run(url, given, lines), run(url, again, lines)]);
    expect(second.manifest.artifact).toEqual(first.manifest.artifact);

    const tensors = await nodeTensors();
    const rows = Float32Array.from(lines.flatMap(({ embedding }) => [...floats(embedding)]));
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
      h.worker.artifacts.get(first.manifest.artifact.sha256),
    );
  });

  it("beyond the edge compares all rows with as many as the edge could train on", async () => {
    const { url } = await h.start({ capacity: 2 });
    const lines = embeddings(600, (value) => (value > 0.2 ? "up" : value < -0.2 ? "down" : "same"));
    const given = submissionOf({ ...ofEmbeddings, edge_budget: { bytes: 50_000, operations: 1e12 } });
    const { told, manifest, judgement } = await run(url, given, lines);
    const [head, fineTuned] = progressOf(told, "Trained");
    const sample = Number(/^Trained the frozen head on (\d+) examples\.$/.exec(head ?? "")?.[1]);
    expect(sample).toBeGreaterThan(10);
    expect(sample).toBeLessThan(400);
    expect(fineTuned).toBe("Trained the fine-tuned candidate on 480 examples.");
    expect(manifest.training.examples).toBe(600);
    expect(judgement.test_examples).toBe(120);
    expect(judgement.fine_tuned_accuracy - judgement.head_accuracy).toBeCloseTo(
      (judgement.only_fine_tuned - judgement.only_head) / 120,
    );

    h.worker.direct = (each) => (each.type === "evaluated" ? { refit: "head" } : {});
    const other = await run(url, { ...given, id: jobId() }, lines);
    expect(other.judgement).toEqual(judgement);
    expect(other.manifest).toMatchObject({ candidate: "head", dataset: { examples: 600 } });
    expect(other.manifest.training.examples).toBeLessThan(400);
  });

  describe("of layers", () => {
    const ofLayers = {
      trainable: "all",
      backbone: { id: textStatic.id, revision: textStatic.revision },
      dimensions: textStatic.dimensions,
    } as const;

    it("uploads what was trained of the backbone beside the head, and says of it what the held-out rows told", async () => {
      const { url } = await h.start();
      const { manifest, judgement, told } = await run(url, submissionOf(ofLayers), texts(300));
      expect(judgement).toMatchObject({ test_examples: 60, head_accuracy: 1, fine_tuned_accuracy: 1 });
      expect(manifest).toMatchObject({
        candidate: "fine_tuned",
        evaluation: { method: "holdout", accuracy: 1, examples: 60 },
        backbone: { dimensions: 2 * textStatic.dimensions },
        dataset: { examples: 300 },
      });
      const delta = h.worker.artifacts.get(manifest.backbone?.artifact.sha256 ?? "");
      expect(delta && decodeDelta(delta)?.base).toEqual(ofLayers.backbone);
      expect(progressOf(told, "Epoch 1 of").length).toBe(2);
    });

    it("that no head at the edge could stand beside are judged by nothing, and still say what the held-out rows told", async () => {
      const { url } = await h.start();
      const given = submissionOf({ ...ofLayers, edge_budget: { bytes: 1, operations: 1 } });
      const { manifest, judgement, told } = await run(url, given, texts(300));
      expect(judgement.test_examples).toBe(0);
      expect(manifest.evaluation).toMatchObject({ method: "holdout", accuracy: 1, examples: 60 });
      // The last training goes as far as the one that was judged did best, of what follows the first third.
      const of = Number(/ of (\d+)/.exec(progressOf(told, "Epoch 1 of")[0] ?? "")?.[1]);
      const epochs = told.flatMap((each) => (each.type === "progress" && each.metrics.epoch ? [each.metrics] : []));
      const losses = epochs.flatMap(({ valid_loss }) => (valid_loss === undefined ? [] : [valid_loss]));
      const late = losses.slice(Math.ceil(of / 3) - 1);
      expect(epochs.length - losses.length).toBe(losses.indexOf(Math.min(...late)) + 1);
    });
  });

  it.each([
    ["no row is held out", texts(60).map((line) => ({ ...line, held_out: false }))],
    ["a label vanishes with them", texts(60, (_, i) => (i % 5 === 0 ? "held" : "rest"))],
    ["all rows are held out", texts(60).map((line) => ({ ...line, held_out: true }))],
  ])("is judged by nothing where %s, and trained all the same", async (_, lines) => {
    const { url } = await h.start();
    const { judgement, manifest } = await run(url, submissionOf(), lines);
    expect(judgement.test_examples).toBe(0);
    expect(manifest.training.examples).toBe(60);
  });

  it.each<[string, Partial<Submission>, Line[], RegExp]>([
    ["has one label", {}, texts(30, () => "only"), /at least two labels/],
    [
      "lacks a text",
      {},
      [{ ...(texts(1)[0] as Line), text: undefined }] as never,
      /^Line 1 of the data has no text\.$/,
    ],
    ["has other embeddings", ofEmbeddings, texts(9), /^Line 1 of the data has no embedding of 8 finite numbers\.$/],
    ["has values for labels", {}, texts(9, (_, i) => i), /^Line 1 of the data has a target that is none of the task/],
    [
      "has class weights for many labels",
      { task: "multi_label", hyperparameters: { ...submissionOf().hyperparameters, class_weight: "balanced" } },
      texts(30, (topic) => [topic]),
      /class_weight/,
    ],
  ])("that %s fails for good", async (_, more, lines, message) => {
    const { url } = await h.start();
    const given = h.worker.offer(submissionOf(more), lines);
    await submit(url, given);
    const failed = await h.worker.until("failed", given.id);
    expect(failed.message).toMatch(message);
    expect(failed.retryable).toBe(false);
  });

  it.each<[string, { bytes: number; operations: number }, RegExp]>([
    ["memory", { bytes: 50_000, operations: 1e13 }, /^The data take more than the 50000 bytes/],
    ["operations", { bytes: 1e9, operations: 1e6 }, /^This training takes .* where the batch endpoint allows /],
  ])("beyond the endpoint's %s fails for good, before any work", async (_, budget, message) => {
    const { url } = await h.start({ budget });
    const given = h.worker.offer(submissionOf(), texts(200));
    await submit(url, given);
    const failed = await h.worker.until("failed", given.id);
    expect(failed.message).toMatch(message);
    expect(failed.retryable).toBe(false);
    expect(progressOf(h.worker.messages(given.id), "Embedded")).toEqual([]);
  });

  it("uploads in parts what is too large for one", async () => {
    const { url } = await h.start({ largestSingle: 500 });
    h.worker.partBytes = 700;
    const { manifest } = await run(url, submissionOf(), texts(60));
    expect(manifest.artifact.bytes).toBeGreaterThan(2 * 700);
    expect(h.worker.calls.filter(({ method, path }) => method === "PUT" && !path.includes("/uploads/"))).toEqual([
      // Of the comparison alone.
      expect.objectContaining({ path: expect.stringMatching(/^artifacts\//) }),
    ]);
  });
});

describe("a submission", () => {
  it("sent again runs once, and has ended when it has", async () => {
    const { url } = await h.start();
    const given = h.worker.offer(submissionOf(), texts(60));
    const answers = await Promise.all([submit(url, given), submit(url, given), submit(url, given)]);
    for (const answer of answers) {
      expect(answer.status).toBe(202);
      expect(await answer.json()).toEqual({ object: "batch.attempt", id: given.id, attempt: 1, status: "running" });
    }
    await h.logged("ended finished");
    expect(h.worker.calls.filter(({ path }) => path === "data")).toHaveLength(1);
    await soon(async () => (await submit(url, given)).status).toBe(200);
    expect(await (await submit(url, given)).json()).toMatchObject({ status: "ended" });
    expect(h.records()).toEqual([]);
  });

  it.each([
    ["by another secret", { by: `whsec_${Buffer.alloc(24).toString("base64")}` }],
    ["too long ago", { shift: -301_000 }],
    ["in the future", { shift: 302_000 }],
  ])("signed %s is not heard", async (_, { shift = 0, ...signing }: { by?: string; shift?: number }) => {
    const { url } = await h.start();
    const given = submissionOf();
    const answer = await call(url, "PUT", `/v1/jobs/${given.id}/attempts/1`, given, {
      ...signing,
      now: Date.now() + shift,
    });
    expect(answer.status).toBe(401);
    expect(await answer.json()).toEqual({ error: { message: expect.any(String), code: "invalid_signature" } });
    expect((await fetch(`${url}/v1/jobs/${given.id}/attempts/1`, { method: "PUT", body: "{}" })).status).toBe(401);
  });

  it("that was seen before is not heard again, whatever it says", async () => {
    const { url } = await h.start();
    const given = submissionOf();
    const path = `/v1/jobs/${given.id}/attempts/1/stop`;
    const body = { object: "batch.stop", id: given.id, attempt: 1, action: "cancel" };
    expect((await call(url, "POST", path, body, { id: "msg_1" })).status).toBe(200);
    expect((await call(url, "POST", path, body, { id: "msg_1" })).status).toBe(409);
    expect((await call(url, "POST", path, body, { id: "msg_2" })).status).toBe(200);
  });

  it("signed by the secret before is heard while that is known", async () => {
    const before = `whsec_${Buffer.alloc(24, "b").toString("base64")}`;
    const { url } = await h.start({ secrets: [secret, before] });
    const given = submissionOf();
    const body = { object: "batch.stop", id: given.id, attempt: 1, action: "cancel" };
    const answer = await call(url, "POST", `/v1/jobs/${given.id}/attempts/1/stop`, body, { by: before });
    expect(await answer.json()).toEqual({ object: "batch.attempt", id: given.id, attempt: 1, status: "ended" });
  });

  const given = submissionOf();
  it.each<[string, string, unknown, RegExp]>([
    ["no submission", given.id, { object: "batch.job" }, /^The body is not as agreed: 'id'/],
    ["null", given.id, null, /^The body is not as agreed/],
    ["for another job", jobId(), given, /names another attempt/],
    ["of an unknown backbone", given.id, { ...given, backbone: { id: "none", revision: "1" } }, /no backbone 'none'/],
    ["of another revision", given.id, { ...given, backbone: { id: "hash-text-1", revision: "2" } }, /of revision '2'/],
    ["of other dimensions", given.id, { ...given, dimensions: 8 }, /384 dimensions, not 8/],
    ["of texts without a backbone", given.id, { ...given, backbone: null }, /need a backbone/],
    ["of embeddings with one", given.id, { ...given, modality: "embedding" }, /need no backbone/],
  ])("that is %s is refused", async (_, id, body, message) => {
    const { url } = await h.start();
    const answer = await call(url, "PUT", `/v1/jobs/${id}/attempts/1`, body);
    expect(answer.status).toBe(422);
    const { error } = (await answer.json()) as { error: { message: string } };
    expect(error.message).toMatch(message);
  });

  it("that is too large is refused, and so is what is no route", async () => {
    const { url } = await h.start();
    const large = { ...given, tenant: "x".repeat(300_000) };
    expect((await call(url, "PUT", `/v1/jobs/${given.id}/attempts/1`, large)).status).toBe(413);
    expect((await fetch(`${url}/v1/jobs`)).status).toBe(404);
  });
});

describe("places", () => {
  it("go round the tenants", async () => {
    const { url } = await h.start();
    hang(h.worker, (path) => path === "data");
    const job = (tenant: string, created_at: number) =>
      h.worker.offer(submissionOf({ ...ofEmbeddings, tenant, created_at }), []);
    const [first, second, third, other] = [job("a", 1), job("a", 3), job("a", 2), job("b", 9)];
    expect((await submit(url, first)).status).toBe(202);
    expect(await (await fetch(`${url}/health`)).json()).toEqual({ status: "ok", running: 1, capacity: 1 });
    for (const waiting of [second, third, other]) {
      const answer = await submit(url, waiting);
      expect([answer.status, answer.headers.get("retry-after")]).toEqual([429, "1"]);
      expect(await answer.json()).toMatchObject({ error: { code: "capacity_exceeded" } });
    }
    const free = async (running: Submission) => {
      expect((await stop(url, running, "cancel")).status).toBe(202);
      await soon(async () => (await fetch(`${url}/health`)).json()).toMatchObject({ running: 0 });
    };
    await free(first);
    expect((await submit(url, second)).status).toBe(429);
    expect((await submit(url, third)).status).toBe(429);
    expect((await submit(url, other)).status).toBe(202);
    await free(other);
    expect((await submit(url, second)).status).toBe(429);
    expect((await submit(url, third)).status).toBe(202);
    await free(third);
    expect((await submit(url, second)).status).toBe(202);
    expect(h.worker.messages(first.id).map(({ type }) => type)).toEqual(["stopped"]);
  });

  it("are given to a newer attempt of a job, whose older one is dropped without a word", async () => {
    const { url } = await h.start();
    hang(h.worker, (path) => path === "data");
    const first = h.worker.offer(submissionOf(), []);
    await submit(url, first);
    const second = h.worker.offer({ ...first, attempt: 2 }, texts(30));
    expect((await submit(url, second)).status).toBe(202);
    expect(await (await submit(url, first)).json()).toMatchObject({ attempt: 1, status: "ended" });
    expect(h.records()).toEqual([`${first.id}.2.json`]);
    expect(h.worker.messages(first.id, 1)).toEqual([]);
  });

  it("are not given any more once the endpoint is to stop", async () => {
    const endpoint = await h.start({ graceMs: 300 });
    const given = h.worker.offer(submissionOf(), texts(30));
    hang(h.worker, (path) => path === "data" || path === "messages");
    await submit(endpoint.url, given);
    const stopped = endpoint.stop();
    expect(await (await fetch(`${endpoint.url}/health`)).json()).toMatchObject({ status: "stopping", running: 1 });
    const other = await submit(endpoint.url, submissionOf());
    expect([other.status, other.headers.get("retry-after")]).toEqual([503, "5"]);
    await stopped;
    // Nobody could be told that it is lost: that is left to the next.
    expect(h.records()).toEqual([`${given.id}.1.json`]);
  });
});
