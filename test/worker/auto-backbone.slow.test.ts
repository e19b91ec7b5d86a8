/** `backbone: "auto"`: the backbones in the box are compared on the training's own examples. */
import { env } from "cloudflare:workers";
import { afterEach, describe, expect, test, vi } from "vitest";
import type { Backbone } from "../../src/backbones/backbone.ts";
import { hashText } from "../../src/backbones/hash-text.ts";
import { textStatic, textUse } from "../../src/backbones/workerd.ts";
import { type BackboneMeasurement, chooseBackbone, runComparedTraining } from "../../src/training/compare.ts";
import { createInlineSource } from "../../src/training/inline-source.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectError } from "./assertions.ts";

const EACH = ["text-use-1", "text-static-1", "hash-text-1"];
const MODEL = { name: "support", dataset: "tickets", backbone: "auto" };

interface Candidate {
  readonly backbone: string;
  readonly lexical: boolean;
  readonly log_loss: number;
  readonly accuracy: number;
}

afterEach(() => void vi.restoreAllMocks());

describe("a training under 'auto'", () => {
  test("shows each backbone, those that may win with and without lexical features, and serves the best", async () => {
    const { key } = await tenantWithTickets();
    const { status, json, text } = await call("POST", "/v1/heads", key, MODEL);
    expect(status, text).toBe(201);
    const candidates = json.training.candidates as Candidate[];
    expect(candidates.filter(({ lexical }) => !lexical).map(({ backbone }) => backbone)).toEqual(EACH);
    expect(candidates.filter(({ lexical }) => lexical).map(({ backbone }) => backbone)).toContain("text-use-1");
    for (const { log_loss, accuracy } of candidates) {
      expect(log_loss).toBeGreaterThan(0);
      expect(accuracy).toBeGreaterThan(0);
      expect(accuracy).toBeLessThanOrEqual(1);
    }
    expect(EACH).toContain(json.backbone.id);
    const stored = (await call("GET", "/v1/heads/support", key)).json;
    expect(stored.training.candidates).toEqual(candidates);
    const predicted = await call("POST", "/v1/heads/support/predict", key, { input: "refund my invoice" });
    expect(predicted.json.data[0].label).toBe("billing");
  });

  test("embeds each text once with the backbone whose embeddings are kept", async () => {
    const { key } = await tenantWithTickets();
    await call("POST", "/v1/heads", key, MODEL);
    const use = `${textUse.id}@${textUse.revision}`;
    const { embedded } = (await call("GET", "/v1/datasets/tickets", key)).json;
    expect(embedded[use]).toBe(tickets().length);
    // Of the others those are kept alone that the head is trained on.
    expect(Object.keys(embedded).length).toBeLessThanOrEqual(2);
    const again = await call("POST", "/v1/heads", key, MODEL);
    expect((await call("GET", "/v1/datasets/tickets", key)).json.embedded).toEqual(embedded);
    expect(again.json.backbone).toEqual((await call("GET", "/v1/heads/support/versions/1", key)).json.backbone);
  });

  test("embeds each text once also where it compares a sample", async () => {
    const { key } = await newTenant();
    await call("POST", "/v1/datasets", key, { name: "many", task: "single_label", modality: "text" });
    const texts = Array.from({ length: 1_100 }, (_, i) => `text ${i}`);
    const lines = texts.map((text, i) => JSON.stringify({ text, label: i % 2 === 0 ? "even" : "odd" }));
    const headers = { "content-type": "application/x-ndjson" };
    await call("POST", "/v1/datasets/many/examples", key, lines.join("\n"), headers);
    const embedded: string[] = [];
    // An embedding that tells the labels, so that this backbone is taken.
    vi.spyOn(textUse, "embed").mockImplementation(async (inputs) => {
      embedded.push(...inputs);
      const rows = inputs.map((text) =>
        Float32Array.from({ length: textUse.dimensions }, (_, i) => Number(i === Number(text.split(" ")[1]) % 2)),
      );
      return { rows, failure: null };
    });
    const body = { name: "many", dataset: "many", backbone: "auto", hyperparameters: { l2: 1, lexical: false } };
    const { status, json, text } = await call("POST", "/v1/heads", key, body);
    expect(status, text).toBe(201);
    expect(json.backbone.id).toBe(textUse.id);
    expect(embedded.sort()).toEqual(texts.sort());
    const dataset = (await call("GET", "/v1/datasets/many", key)).json;
    expect(dataset.embedded).toEqual({ [`${textUse.id}@${textUse.revision}`]: texts.length });
  });

  test("trains on the revision that it compared, whatever comes meanwhile, and reads no block of another backbone", async () => {
    const { key } = await tenantWithTickets();
    const add = async (text: string) => {
      const examples = [{ text, label: "shipping" }];
      expect((await call("POST", "/v1/datasets/tickets/examples", key, { examples })).status).toBe(200);
    };
    // So that another backbone is better.
    vi.spyOn(textUse, "embed").mockImplementation(async (inputs) => ({
      rows: inputs.map(() => new Float32Array(textUse.dimensions).fill(0.01)),
      failure: null,
    }));
    await call("POST", "/v1/heads", key, MODEL);
    await add("my parcel came too early");
    const { revision } = (await call("GET", "/v1/datasets/tickets", key)).json;
    const readBlock = vi.spyOn(env.KV, "get");
    const embed = hashText.embed.bind(hashText);
    vi.spyOn(hashText, "embed").mockImplementationOnce(async (inputs) => {
      await add("my parcel came too late");
      return embed(inputs);
    });
    const { status, json, text } = await call("POST", "/v1/heads", key, MODEL);
    expect(status, text).toBe(201);
    expect(json.backbone.id).not.toBe(textUse.id);
    const examples = tickets().length + 1;
    expect(json.dataset).toEqual({ name: "tickets", revision, examples });
    expect(json.training.examples).toBe(examples);
    expect((await call("GET", "/v1/datasets/tickets", key)).json.revision).toBe(revision + 1);
    expect(readBlock.mock.calls.filter(([name]) => String(name).includes(`/${textUse.id}@`))).toHaveLength(1);
  });

  test("takes examples in the request, and gives the same head as with a dataset", async () => {
    const { key } = await tenantWithTickets();
    const ofDataset = (await call("POST", "/v1/heads", key, MODEL)).json;
    const { dataset: _, ...withoutDataset } = MODEL;
    const inline = await call("POST", "/v1/heads", key, { ...withoutDataset, name: "inline", examples: tickets() });
    expect(inline.status, inline.text).toBe(201);
    expect(inline.json.training.candidates).toEqual(ofDataset.training.candidates);
    // Only the bytes of the one of a dataset name examples.
    const [own, other] = await Promise.all(
      [ofDataset, inline.json].map(
        async ({ id }) => (await call("GET", `/v1/heads/${id}/versions/1/export`, key)).json,
      ),
    );
    expect({ ...own, id: other.id }).toEqual(other);
  });

  test("compares a sample of many examples", async () => {
    const { key } = await newTenant();
    const examples = Array.from({ length: 1_100 }, (_, i) => ({
      text: `${i % 2 === 0 ? "refund" : "parcel"} ${i}`,
      label: i % 2 === 0 ? "billing" : "shipping",
    }));
    const hyperparameters = { l2: 1 };
    const body = { name: "many", backbone: "auto", examples, evaluation: { method: "holdout" }, hyperparameters };
    const { status, json, text } = await call("POST", "/v1/heads", key, body);
    expect(status, text).toBe(201);
    expect(json.training.examples).toBe(1_100);
    expect(json.training.candidates.length).toBeGreaterThanOrEqual(4);
    expect(json.evaluation.accuracy).toBeGreaterThan(0.95);
  });

  test("prefers the encoder where no example can be held out", async () => {
    const { key } = await newTenant();
    const examples = [
      { text: "refund my invoice", label: "billing" },
      { text: "where is my parcel", label: "shipping" },
    ];
    const { status, json, text } = await call("POST", "/v1/heads", key, { name: "two", backbone: "auto", examples });
    expect(status, text).toBe(201);
    expect(json.backbone.id).toBe("text-use-1");
    expect(json.training).not.toHaveProperty("candidates");
  });

  test("is of values and of several labels as well", async () => {
    const { key } = await newTenant();
    const values = tickets().map(({ text }) => ({ text, value: text.length }));
    const regression = await call("POST", "/v1/heads", key, { name: "length", backbone: "auto", examples: values });
    expect(regression.status, regression.text).toBe(201);
    expect(regression.json.training.candidates.length).toBeGreaterThanOrEqual(4);
    for (const { accuracy } of regression.json.training.candidates) expect(accuracy).toBeNull();
    const several = tickets().map(({ text, label }) => ({
      text,
      labels: [label, text.length > 20 ? "long" : "short"],
    }));
    const multi = await call("POST", "/v1/heads", key, { name: "several", backbone: "auto", examples: several });
    expect(multi.status, multi.text).toBe(201);
    expect(multi.json.training.candidates.length).toBeGreaterThanOrEqual(4);
  });

  test("needs no backbone for embeddings of the caller's own", async () => {
    const { key } = await newTenant();
    const examples = Array.from({ length: 12 }, (_, i) => ({ embedding: [i % 2, 1, i / 12], label: `${i % 2}` }));
    const { status, json, text } = await call("POST", "/v1/heads", key, { name: "own", backbone: "auto", examples });
    expect(status, text).toBe(201);
    expect(json.backbone).toEqual({ id: "embedding", revision: "1" });
  });

  test("is no model, nor its id", async () => {
    const { key } = await newTenant();
    expectError(await call("GET", "/v1/models/auto", key), 404, "not_found", "id");
    expectError(await call("POST", "/v1/embeddings", key, { model: "auto", input: "x" }), 404, "not_found", "model");
  });
});

describe("chooseBackbone", () => {
  const measurement = (backbone: string, lexical: boolean, losses: readonly number[]): BackboneMeasurement => ({
    backbone,
    lexical,
    l2: 1,
    heldOut: { losses: Float64Array.from(losses), mean: losses.reduce((sum, loss) => sum + loss, 0) / losses.length },
    accuracy: null,
  });

  test("takes the preferred one unless another is better by more than a standard error", () => {
    const noise = [0.1, -0.1, 0.2, -0.2, 0.15, -0.15];
    const preferred = measurement("a", false, [1, 1, 1, 1, 1, 1]);
    const similar = measurement(
      "b",
      false,
      noise.map((each) => 0.98 + each),
    );
    const better = measurement("c", true, [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]);
    expect(chooseBackbone([preferred, similar])?.best.backbone).toBe("a");
    expect(chooseBackbone([preferred, similar, better])?.best.backbone).toBe("c");
    expect(chooseBackbone([])).toBeNull();
  });

  test("takes lexical features where their loss is lower by more than a standard error", () => {
    const alone = measurement("a", false, [1, 1.1, 0.9]);
    const lower = measurement("a", true, [0.9, 1, 0.8]);
    const similar = measurement("a", true, [0.8, 1.2, 0.9]);
    expect(chooseBackbone([alone, lower])?.best).toBe(lower);
    expect(chooseBackbone([alone, similar])?.best).toBe(alone);
  });
});

test("backbones that are beyond the budget are left out, and all of them are an error", async () => {
  const examples = tickets().map(({ text, label }, i) => {
    const hash = Uint8Array.of(i, 1, 2, 3, 4, 5, 6, 7);
    return { input: text, inputHash: hash, groupHash: hash, target: JSON.stringify(label) };
  });
  const source = (backbone: Backbone | null) =>
    createInlineSource("single_label", examples as never, backbone, backbone?.dimensions ?? 0);
  const train = (tooLarge: readonly Backbone[], canBeJob = false) =>
    runComparedTraining(
      { tenant: "budget", signal: new AbortController().signal },
      {
        backbones: [textUse, textStatic, hashText],
        canBeJob,
        makeSource: async (backbone) => ({ ok: true, value: source(backbone) }),
        makeSample: (backbone) => ({
          ...source(backbone),
          textBytes: backbone !== null && tooLarge.includes(backbone) ? 1e9 : 0,
        }),
      },
      { l2: 1, classWeight: null, seed: 0, lexical: false, evaluation: { method: "none" } },
    );
  expect(await train([textUse])).toMatchObject({
    ok: true,
    value: { candidates: [{ backbone: "text-static-1" }, { backbone: "hash-text-1" }] },
  });
  // A job trains on what is not embedded yet.
  expect(await train([textUse], true)).toMatchObject({ ok: false, failure: { code: "edge_budget_exceeded" } });
  expect(await train([textUse, textStatic])).toMatchObject({
    ok: true,
    value: { backbone: { id: "hash-text-1" }, candidates: [] },
  });
  expect(await train([textUse, textStatic, hashText])).toMatchObject({
    ok: false,
    failure: { code: "edge_budget_exceeded" },
  });
});
