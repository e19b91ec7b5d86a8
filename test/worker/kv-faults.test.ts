/** Whatever KV does costs time, never an answer: each function of src/store against a KV that fails in each way. */
import { createExecutionContext, SELF, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, test } from "vitest";
import type { Backbone } from "../../src/backbones/backbone.ts";
import { encodeHead } from "../../src/core/codec.ts";
import type { Head } from "../../src/core/head.ts";
import { createApp } from "../../src/http/app.ts";
import { toStoredExample } from "../../src/ingest/example.ts";
import { sha256Hex, shortHash } from "../../src/lib/hash.ts";
import { BLOCK_ROWS } from "../../src/store/blocks.ts";
import { publishBytes, storeBytes } from "../../src/store/content-addressed.ts";
import { gatherBlocks, type RowsToEmbed, type StoredBlock } from "../../src/store/gather.ts";
import { getHead } from "../../src/store/heads.ts";
import { embedInputs } from "../../src/store/inputs.ts";
import { headKey } from "../../src/store/keys.ts";
import { createInlineSource } from "../../src/training/inline-source.ts";
import { linearHead } from "../contract/linear-head.ts";
import { call, newTenant, tickets } from "./api.ts";
import {
  corruptedKv,
  corruptions,
  type FaultyKv,
  failingKv,
  rateLimitedKv,
  staleKv,
  timingOutKv,
  wrapKv,
} from "./faulty-kv.ts";

/** A clock that the tests move. */
let clock = 0;
const now = () => clock;
let tenant = "";
beforeEach(() => {
  clock = 1_000_000;
  tenant = `faults-${crypto.randomUUID().slice(0, 18)}`;
});

const faults: Readonly<Record<string, () => FaultyKv>> = {
  "nothing wrong": () => wrapKv(env.KV),
  "reads fail": () => failingKv(env.KV, "get"),
  "writes fail": () => failingKv(env.KV, "put"),
  "everything fails": () => failingKv(env.KV, "get", "put", "list", "delete"),
  "everything times out": () => timingOutKv(env.KV, 20),
  "writes are rate-limited": () => rateLimitedKv(env.KV, now),
  "reads lag": () => staleKv(env.KV, now),
  ...Object.fromEntries(
    Object.entries(corruptions).map(([name, garble]) => [
      `values are garbled: ${name}`,
      () => corruptedKv(env.KV, garble),
    ]),
  ),
};

const DIMENSIONS = 3;

/** A remote backbone that counts what it embeds, and answers only while it has `quota`. */
function fakeBackbone(quota = Number.POSITIVE_INFINITY): Backbone & { embedded: string[] } {
  const embedded: string[] = [];
  let quotaLeft = quota;
  return {
    id: "fake",
    revision: "1",
    modality: "text",
    dimensions: DIMENSIONS,
    kind: "openai",
    license: "none",
    parameters: 0,
    bytes: 0,
    cost: "remote",
    embedded,
    embed: async (inputs) => {
      const rows = inputs.map((input) => {
        if (quotaLeft <= 0) return undefined;
        quotaLeft--;
        embedded.push(input);
        return embedding(input);
      });
      const failure = rows.includes(undefined)
        ? { code: "backend_rate_limited" as const, message: "Too many requests." }
        : null;
      return { rows, failure };
    },
  };
}

function embedding(input: string): Float32Array {
  return Float32Array.from(shortHash(input).subarray(0, DIMENSIONS));
}

function makeRows(texts: readonly string[], blocks: ReadonlyMap<number, string>): RowsToEmbed {
  return {
    dataset: { id: 1 },
    positions: Uint32Array.from(texts, (_, i) => i),
    inputHashes: Uint8Array.from(texts.flatMap((text) => [...shortHash(text)])),
    blocks,
    incompleteBlocks: new Set(),
    isPartial: false,
  };
}

const neverPreempted = async () => null;

/** A data set of texts, and the ledger's note of its blocks. */
function makeDataset(texts: readonly string[]) {
  const blocks = new Map<number, string>();
  const rows = makeRows(texts, blocks);
  const gather = async (kv: KVNamespace, backbone: Backbone) => {
    const deliveredBlocks = new Map<number, Float32Array>();
    const result = await gatherBlocks({
      kv,
      tenant,
      backbone,
      rows,
      readInputs: async (positions) => positions.map((position) => texts[position] ?? null),
      yieldToEventLoop: neverPreempted,
      retainedBlocks: new Map(),
      onBlock: (block, values) => deliveredBlocks.set(block, values),
      recordBlock: async (block, { key }) => blocks.set(block, key),
    });
    const features = [...deliveredBlocks].sort(([a], [b]) => a - b).flatMap(([, values]) => [...values]);
    return { ...result, features };
  };
  return { gather, blocks, features: texts.flatMap((text) => [...embedding(text)]) };
}

const texts = Array.from({ length: 2 * BLOCK_ROWS + 100 }, (_, i) => `text ${i}`);

describe("a data set's embeddings", () => {
  test.each(Object.entries(faults))("are complete and right where %s", async (_, fault) => {
    const data = makeDataset(texts);
    const { kv } = fault();
    const first = await data.gather(kv, fakeBackbone());
    expect(first.failure).toBeNull();
    expect(first.features).toEqual(data.features);
    clock += 10;
    const second = await data.gather(kv, fakeBackbone());
    expect(second.failure).toBeNull();
    expect(second.features).toEqual(data.features);
    expect(second.embedded + second.cached).toBe(texts.length);
    clock += 61_000;
    const healthy = fakeBackbone();
    await data.gather(env.KV, healthy);
    const third = await data.gather(env.KV, healthy);
    expect(third.features).toEqual(data.features);
    expect(third.embedded, "once KV works again, nothing is embedded twice").toBe(0);
  });

  test.each(Object.entries(corruptions))("are embedded again, not taken from a value that is %s", async (_, garble) => {
    const data = makeDataset(texts);
    await data.gather(env.KV, fakeBackbone());
    const backbone = fakeBackbone();
    const secondResult = await data.gather(corruptedKv(env.KV, garble).kv, backbone);
    expect(secondResult.features).toEqual(data.features);
    expect(backbone.embedded).toHaveLength(texts.length);
  });

  test("are not taken from another block's or another kind's whole value under the key", async () => {
    const data = makeDataset(texts);
    await data.gather(env.KV, fakeBackbone());
    const other = makeDataset(texts.map((text) => `other ${text}`));
    await other.gather(env.KV, fakeBackbone());
    const [ownBlock, otherBlock] = [data.blocks.get(0) ?? "", other.blocks.get(0) ?? ""];
    const blockOfOthers = new Uint8Array((await env.KV.get(otherBlock, "arrayBuffer")) ?? new ArrayBuffer());
    for (const value of [blockOfOthers, encodeHead(head())]) {
      await env.KV.put(ownBlock, value);
      const backbone = fakeBackbone();
      expect((await data.gather(env.KV, backbone)).features).toEqual(data.features);
      expect(backbone.embedded).toHaveLength(BLOCK_ROWS);
    }
  });

  test("that were gathered before the backbone failed are kept, and only the rest is embedded next", async () => {
    const data = makeDataset(texts);
    const failing = fakeBackbone(1500);
    const first = await data.gather(env.KV, failing);
    expect(first.failure).toMatchObject({ code: "backend_rate_limited", retryAfter: 5 });
    expect(first.embedded).toBe(1500);
    const unlimitedBackbone = fakeBackbone();
    const second = await data.gather(env.KV, unlimitedBackbone);
    expect(second.failure).toBeNull();
    expect(second.features).toEqual(data.features);
    expect(unlimitedBackbone.embedded).toHaveLength(texts.length - 1500);
    expect(new Set([...failing.embedded, ...unlimitedBackbone.embedded]).size).toBe(texts.length);
  });

  const answers: readonly [string, (rows: Float32Array[]) => (Float32Array | undefined)[]][] = [
    ["too few rows", (rows) => rows.slice(0, -1)],
    ["rows with holes", (rows) => Object.assign(new Array(rows.length), { 0: rows[0] })],
    ["a row of the wrong length", (rows) => rows.map((row, i) => (i === 7 ? new Float32Array(DIMENSIONS + 1) : row))],
  ];
  test.each(answers)("are refused where the backbone claims success with %s", async (_, spoilRows) => {
    const backbone = fakeBackbone();
    const embed = async (inputs: readonly string[]) => ({ rows: spoilRows(inputs.map(embedding)), failure: null });
    const data = makeDataset(texts.slice(0, 20));
    const done = await data.gather(env.KV, { ...backbone, embed });
    expect(done.failure).toMatchObject({ code: "backend_invalid_answer" });
    expect(done.features).toEqual([]);
    const secondResult = await data.gather(env.KV, backbone);
    expect(secondResult.features).toEqual(data.features);
    const single = await embedInputs(env.KV, tenant, { ...backbone, embed }, texts.slice(0, 20), () => undefined);
    expect(single.ok).toBe(false);
    const examples = texts.slice(0, 20).map((text, i) => toStoredExample(null, text, `label ${i % 2}`));
    const inline = createInlineSource("single_label", examples, { ...backbone, embed }, DIMENSIONS);
    expect(await inline.prepare?.(neverPreempted)).toMatchObject({
      failure: { code: "backend_invalid_answer" },
    });
  });

  test("are refused as changed where an example was edited meanwhile, and nothing false is kept", async () => {
    const data = makeDataset(texts.slice(0, 20));
    const rows = makeRows(texts.slice(0, 20), new Map());
    const readInputs = async (positions: readonly number[]) =>
      positions.map((position) => (position === 3 ? "edited since" : (texts[position] ?? null)));
    const backbone = fakeBackbone();
    const recordedBlocks: string[] = [];
    const recordBlock = async (_: number, { key }: StoredBlock) => recordedBlocks.push(key);
    const work = {
      kv: env.KV,
      tenant,
      backbone,
      rows,
      readInputs,
      yieldToEventLoop: neverPreempted,
      retainedBlocks: new Map(),
      recordBlock,
    };
    const done = await gatherBlocks({ ...work, onBlock: () => undefined });
    expect(done.failure).toMatchObject({ code: "dataset_changed" });
    expect(recordedBlocks).toEqual([]);
    expect((await data.gather(env.KV, backbone)).features).toEqual(data.features);
  });
});

describe("the embeddings of single inputs", () => {
  const inputs = ["a", "b", "a", "c"];

  async function embedAll(kv: KVNamespace, backbone: Backbone, owner = tenant) {
    const later: Promise<unknown>[] = [];
    const result = await embedInputs(kv, owner, backbone, inputs, (work) => later.push(work));
    await Promise.all(later);
    if (!result.ok) throw new Error(result.failure.message);
    return { rows: result.value.rows.map((row) => [...row]), hits: result.value.cacheHits };
  }

  test.each(Object.entries(faults))("are right where %s", async (_, fault) => {
    const { kv } = fault();
    const expected = inputs.map((input) => [...embedding(input)]);
    expect((await embedAll(kv, fakeBackbone())).rows).toEqual(expected);
    clock += 10;
    expect((await embedAll(kv, fakeBackbone())).rows).toEqual(expected);
    clock += 61_000;
    await embedAll(env.KV, fakeBackbone());
    const backbone = fakeBackbone();
    expect(await embedAll(env.KV, backbone)).toEqual({ rows: expected, hits: inputs.length });
    expect(backbone.embedded).toEqual([]);
  });

  test("of another input or tenant under a key are not believed", async () => {
    await embedAll(env.KV, fakeBackbone());
    const other = `${tenant}-other`;
    await embedAll(env.KV, fakeBackbone(), other);
    const keys = async (owner: string) =>
      (await env.KV.list({ prefix: `tenants/${owner}/inputs/` })).keys.map((k) => k.name);
    const [ownKeys, otherKeys] = [await keys(tenant), await keys(other)];
    expect(ownKeys).toHaveLength(3);
    await env.KV.put(ownKeys[0] ?? "", (await env.KV.get(ownKeys[1] ?? "")) ?? "");
    await env.KV.put(ownKeys[2] ?? "", (await env.KV.get(otherKeys[0] ?? "")) ?? "");
    const backbone = fakeBackbone();
    const secondResult = await embedAll(env.KV, backbone);
    expect(secondResult.rows).toEqual(inputs.map((input) => [...embedding(input)]));
    expect(backbone.embedded).toHaveLength(2);
  });

  test("that came before the backbone failed are kept", async () => {
    const later: Promise<unknown>[] = [];
    const partial = await embedInputs(env.KV, tenant, fakeBackbone(2), inputs, (work) => later.push(work));
    expect(partial).toMatchObject({ ok: false, failure: { code: "backend_rate_limited" } });
    await Promise.all(later);
    const unlimitedBackbone = fakeBackbone();
    await embedAll(env.KV, unlimitedBackbone);
    expect(unlimitedBackbone.embedded).toEqual(["c"]);
  });

  test("stay within the operations of one request, however many inputs it has", async () => {
    const { kv, operations } = wrapKv(env.KV);
    const manyInputs = Array.from({ length: 2048 }, (_, i) => `input ${i}`);
    const later: Promise<unknown>[] = [];
    await embedInputs(kv, tenant, fakeBackbone(), manyInputs, (work) => later.push(work));
    await Promise.all(later);
    expect(operations.get).toBe(21);
    expect(operations.put).toBeLessThanOrEqual(200);
  });
});

function head(seed = 1): Head {
  return {
    ...linearHead({
      task: "single_label",
      labels: ["no", "yes"],
      dimensions: DIMENSIONS,
      weights: Float32Array.from({ length: 2 * DIMENSIONS }, (_, i) => seed * i - 2),
      bias: Float32Array.of(seed, -1),
    }),
    conformal: Float32Array.of(0.5),
  };
}

describe("a head's bytes", () => {
  const bytes = encodeHead(head());
  const sha256 = sha256Hex(bytes);

  test.each(Object.entries(faults))("are read right where %s", async (_, fault) => {
    await storeBytes(env.BUCKET, headKey(tenant, sha256), bytes);
    const { kv } = fault();
    await publishBytes(kv, env.BUCKET, headKey(tenant, sha256)).catch(() => undefined);
    expect(await getHead(kv, env.BUCKET, tenant, sha256)).toEqual(head());
  });

  test("come from R2 for as long as KV remembers that there were none", async () => {
    const { kv, operations } = staleKv(env.KV, now);
    await storeBytes(env.BUCKET, headKey(tenant, sha256), bytes);
    await kv.get(headKey(tenant, sha256), "arrayBuffer");
    await publishBytes(kv, env.BUCKET, headKey(tenant, sha256));
    expect(await kv.get(headKey(tenant, sha256), "arrayBuffer")).toBeNull();
    expect(await getHead(kv, env.BUCKET, tenant, sha256)).toEqual(head());
    const before = operations.get;
    await getHead(kv, env.BUCKET, tenant, sha256);
    expect(operations.get, "a head read once stays in the isolate's memory").toBe(before);
  });

  test("of another tenant under the key are not believed, nor are those of another head", async () => {
    const other = encodeHead(head(2));
    await storeBytes(env.BUCKET, headKey(tenant, sha256), bytes);
    await env.KV.put(headKey(tenant, sha256), other);
    expect(await getHead(env.KV, env.BUCKET, tenant, sha256)).toEqual(head());
  });

  test("are null, not garbage and not an exception, where neither KV nor R2 has them", async () => {
    await env.KV.put(headKey(tenant, sha256), new Uint8Array(100));
    expect(await getHead(env.KV, env.BUCKET, tenant, sha256)).toBeNull();
    const failingBucket = { get: () => Promise.reject(new Error("R2 is down")) } as unknown as R2Bucket;
    expect(await getHead(env.KV, failingBucket, tenant, sha256)).toBeNull();
    const arrayBuffer = () => Promise.reject(new Error("Network connection lost."));
    const cutBucket = { get: async () => ({ arrayBuffer }) } as unknown as R2Bucket;
    expect(await getHead(env.KV, cutBucket, tenant, sha256)).toBeNull();
  });

  test("are refused by R2 where they are not what their name says", async () => {
    await expect(storeBytes(env.BUCKET, headKey(tenant, sha256), encodeHead(head(3)))).rejects.toThrow();
    expect(await env.BUCKET.head(headKey(tenant, sha256))).toBeNull();
  });
});

describe("the whole Worker", () => {
  test.each(Object.entries(faults))("trains and predicts as ever where %s", async (_, fault) => {
    const { key } = await newTenant();
    await call("POST", "/v1/datasets", key, { name: "tickets", task: "single_label", modality: "text" });
    await call("POST", "/v1/datasets/tickets/examples", key, { examples: tickets() });
    const app = createApp();
    const { kv } = fault();
    const post = async (path: string, body: unknown) => {
      const context = createExecutionContext();
      const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
      const request = new Request(`http://graft.test${path}`, { method: "POST", headers, body: JSON.stringify(body) });
      const response = await app.fetch(request, { ...env, KV: kv }, context);
      const text = await response.text();
      await waitOnExecutionContext(context);
      return { status: response.status, text };
    };
    const train = { name: "support", dataset: "tickets", hyperparameters: { l2: 1 }, evaluation: { method: "none" } };
    for (const version of [1, 2]) {
      const trained = await post("/v1/heads", train);
      expect(trained.status, trained.text).toBe(201);
      const predicted = await post("/v1/heads/support/predict", { version, input: "please refund the charge" });
      expect(predicted.status, predicted.text).toBe(200);
      expect(JSON.parse(predicted.text).data[0].label).toBe("billing");
    }
    const response = await SELF.fetch("http://graft.test/v1/heads/support", {
      headers: { authorization: `Bearer ${key}` },
    });
    expect(await response.json()).toMatchObject({ version: 2 });
  });
});
