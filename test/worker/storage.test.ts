/** What the cache of embeddings saves: counted in embeddings made and KV operations, through the real ledger. */
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, test } from "vitest";
import type { Backbone } from "../../src/backbones/backbone.ts";
import { shortHash } from "../../src/lib/hash.ts";
import { BLOCK_ROWS } from "../../src/store/blocks.ts";
import { gatherBlocks, type RowsToEmbed, type StoredBlock } from "../../src/store/gather.ts";
import { tenantPrefix } from "../../src/store/keys.ts";
import { getLedger, type Ledger } from "../../src/tenant/tenant.ts";
import { call, newTenant } from "./api.ts";
import { type FaultyKv, wrapKv } from "./faulty-kv.ts";

let tenant: { id: string; key: string };
let remote: Ledger;
let watchedKv: FaultyKv;

beforeEach(async () => {
  tenant = await newTenant();
  remote = getLedger(env.TENANT, tenant.id);
  watchedKv = wrapKv(env.KV);
});

const DIMENSIONS = 4;

function countingBackbone(id = "counting"): Backbone & { readonly embedded: string[] } {
  const embedded: string[] = [];
  const embed = async (inputs: readonly string[]) => {
    embedded.push(...inputs);
    return { rows: inputs.map(embedding), failure: null };
  };
  const properties = { license: "none", parameters: 0, bytes: 0, cost: "local", kind: "hash" } as const;
  return { id, revision: "1", modality: "text", dimensions: DIMENSIONS, ...properties, embedded, embed };
}

function embedding(input: string): Float32Array {
  return Float32Array.from(shortHash(input).subarray(0, DIMENSIONS));
}

async function newDataset(name: string): Promise<void> {
  const response = await call("POST", "/v1/datasets", tenant.key, { name, task: "single_label", modality: "text" });
  expect(response.status, response.text).toBe(201);
}

interface Row {
  readonly id?: string;
  readonly text: string;
}

async function importRows(name: string, rows: readonly Row[]) {
  const body = rows.map((row, i) => JSON.stringify({ ...row, label: i % 2 ? "odd" : "even" })).join("\n");
  const headers = { "content-type": "application/x-ndjson" };
  const answer = await call("POST", `/v1/datasets/${name}/examples`, tenant.key, body, headers);
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
}

/** Gathers a data set's embeddings as a training does, and checks every row of them. */
async function gatherEmbeddings(name: string, backbone: Backbone & { readonly embedded: string[] }) {
  const rows = await remote.readTrainingRows(name, `${backbone.id}@${backbone.revision}`);
  if (!rows.ok) throw new Error(rows.failure.message);
  const { id } = rows.value.dataset;
  const readInputs = async (positions: readonly number[]) => {
    const inputs = await remote.readInputs(id, positions);
    return inputs.ok ? inputs.value : [];
  };
  const deliveredBlocks = new Map<number, Float32Array>();
  const before = { ...watchedKv.operations };
  const result = await gatherBlocks({
    kv: watchedKv.kv,
    tenant: tenant.id,
    backbone,
    rows: rows.value,
    readInputs,
    yieldToEventLoop: async () => null,
    retainedBlocks: new Map(),
    onBlock: (block, values) => deliveredBlocks.set(block, values),
    recordBlock: (block, stored) =>
      remote.recordBlocks(id, `${backbone.id}@${backbone.revision}`, new Map([[block, stored]])),
  });
  expect(result.failure).toBeNull();
  const features = [...deliveredBlocks].sort(([a], [b]) => a - b).flatMap(([, values]) => [...values]);
  const inputs = await readInputs(Array.from(rows.value.positions));
  expect(features).toEqual(inputs.flatMap((input) => [...embedding(String(input))]));
  const embedded = backbone.embedded.splice(0);
  const { get, put } = watchedKv.operations;
  return { embedded, reads: get - before.get, writes: put - before.put, blocks: rows.value.blocks };
}

describe("training again", () => {
  test("after adding 10 examples to 10,000 embeds those 10 and reads one value for each thousand rows", async () => {
    const backbone = countingBackbone();
    await newDataset("texts");
    await importRows(
      "texts",
      Array.from({ length: 10_000 }, (_, i) => ({ text: `text ${i}` })),
    );
    const first = await gatherEmbeddings("texts", backbone);
    expect([first.embedded.length, first.reads, first.writes]).toEqual([10_000, 0, 10]);

    const added = Array.from({ length: 10 }, (_, i) => ({ text: `new ${i}` }));
    await importRows("texts", added);
    const second = await gatherEmbeddings("texts", backbone);
    expect(second.embedded).toEqual(added.map(({ text }) => text));
    expect([second.reads, second.writes]).toEqual([10, 1]);

    const third = await gatherEmbeddings("texts", backbone);
    expect([third.embedded.length, third.reads, third.writes]).toEqual([0, 10, 0]);
  });

  test("after editing an example embeds that one, after deleting some embeds none", async () => {
    const backbone = countingBackbone();
    await newDataset("texts");
    await importRows(
      "texts",
      Array.from({ length: 3000 }, (_, i) => ({ id: `e${i}`, text: `text ${i}` })),
    );
    await gatherEmbeddings("texts", backbone);
    const edit = { text: "another text" };
    expect((await call("PATCH", "/v1/datasets/texts/examples/e1500", tenant.key, edit)).status).toBe(200);
    const edited = await gatherEmbeddings("texts", backbone);
    expect([edited.embedded, edited.reads, edited.writes]).toEqual([["another text"], 3, 1]);
    for (const id of ["e0", "e1500", "e2999"])
      expect((await call("DELETE", `/v1/datasets/texts/examples/${id}`, tenant.key)).status).toBe(200);
    const deleted = await gatherEmbeddings("texts", backbone);
    expect([deleted.embedded, deleted.reads, deleted.writes]).toEqual([[], 3, 0]);
    await importRows("texts", [{ id: "e0", text: "back again" }]);
    expect((await gatherEmbeddings("texts", backbone)).embedded, "a position is never given out twice").toEqual([
      "back again",
    ]);
  });

  test("after another label for the same text embeds none", async () => {
    const backbone = countingBackbone();
    await newDataset("texts");
    await importRows("texts", [
      { id: "a", text: "a" },
      { id: "b", text: "b" },
    ]);
    await gatherEmbeddings("texts", backbone);
    await call("PATCH", "/v1/datasets/texts/examples/a", tenant.key, { label: "odd" });
    expect((await gatherEmbeddings("texts", backbone)).embedded).toEqual([]);
  });

  test("after an import of unchanged rows changes no block and no revision", async () => {
    const backbone = countingBackbone();
    await newDataset("texts");
    const rows = Array.from({ length: 2000 }, (_, i) => ({ text: `text ${i}` }));
    const first = await importRows("texts", rows);
    await gatherEmbeddings("texts", backbone);
    const before = await gatherEmbeddings("texts", backbone);
    const reimport = await importRows("texts", rows);
    expect(reimport).toMatchObject({ added: 0, updated: 0, unchanged: 2000 });
    expect(reimport.dataset.revision).toBe(first.dataset.revision);
    const after = await gatherEmbeddings("texts", backbone);
    expect([after.embedded, after.writes]).toEqual([[], 0]);
    expect(after.blocks).toEqual(before.blocks);
  });

  test("with another backbone or another revision of it embeds anew, each kept beside the other", async () => {
    const [a, b] = [countingBackbone("a"), { ...countingBackbone("a"), revision: "2" }];
    await newDataset("texts");
    await importRows("texts", [{ text: "one" }, { text: "two" }]);
    expect((await gatherEmbeddings("texts", a)).embedded).toHaveLength(2);
    expect((await gatherEmbeddings("texts", b)).embedded).toHaveLength(2);
    expect((await gatherEmbeddings("texts", a)).embedded).toHaveLength(0);
    expect((await gatherEmbeddings("texts", b)).embedded).toHaveLength(0);
  });
});

describe("nothing is shared", () => {
  test("between two data sets of a tenant, or between two tenants, though the texts are the same", async () => {
    const backbone = countingBackbone();
    const rows = [{ text: "one" }, { text: "two" }];
    const keys = async () => (await env.KV.list({ prefix: tenantPrefix(tenant.id) })).keys.map(({ name }) => name);
    for (const name of ["first", "second"]) {
      await newDataset(name);
      await importRows(name, rows);
      expect((await gatherEmbeddings(name, backbone)).embedded).toEqual(["one", "two"]);
    }
    const ownKeys = await keys();
    expect(ownKeys).toHaveLength(2);

    tenant = await newTenant();
    remote = getLedger(env.TENANT, tenant.id);
    await newDataset("first");
    await importRows("first", rows);
    expect((await gatherEmbeddings("first", backbone)).embedded).toEqual(["one", "two"]);
    const otherKeys = await keys();
    expect(otherKeys).toHaveLength(1);
    expect(ownKeys.some((key) => otherKeys.includes(key))).toBe(false);
  });
});

describe("KV operations of one request", () => {
  test("stay far under the platform's 1,000 for 100,000 rows", async () => {
    const texts = Array.from({ length: 100_000 }, (_, i) => `t${i}`);
    const blocks = new Map<number, string>();
    const rows: RowsToEmbed = {
      dataset: { id: 1 },
      positions: Uint32Array.from(texts, (_, i) => i),
      inputHashes: new Uint8Array(await new Blob(texts.map((text) => new Uint8Array(shortHash(text)))).arrayBuffer()),
      blocks,
      incompleteBlocks: new Set(),
      isPartial: false,
    };
    const backbone = countingBackbone();
    const work = {
      kv: watchedKv.kv,
      tenant: tenant.id,
      backbone,
      rows,
      readInputs: async (positions: readonly number[]) => positions.map((position) => texts[position] ?? null),
      yieldToEventLoop: async () => null,
      retainedBlocks: new Map(),
      onBlock: () => undefined,
      recordBlock: async (block: number, { key }: StoredBlock) => blocks.set(block, key),
    };
    const count = Math.ceil(texts.length / BLOCK_ROWS);
    await gatherBlocks(work);
    expect(watchedKv.operations).toEqual({ get: 0, put: count, list: 0, delete: 0 });
    const second = await gatherBlocks(work);
    expect(second).toMatchObject({ embedded: 0, cached: texts.length, failure: null });
    expect(watchedKv.operations).toEqual({ get: count, put: count, list: 0, delete: 0 });
    expect(2 * count).toBeLessThan(250);
  });
});
