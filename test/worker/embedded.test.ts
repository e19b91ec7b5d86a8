/** What a dataset shows of its embeddings: how many of its present rows have one that is kept. */
import { env } from "cloudflare:workers";
import { describe, expect, test, vi } from "vitest";
import type { Backbone } from "../../src/backbones/backbone.ts";
import { textStatic, textUse } from "../../src/backbones/workerd.ts";
import { readBlock } from "../../src/store/blocks.ts";
import { getLedger } from "../../src/tenant/tenant.ts";
import { createDatasetSource } from "../../src/training/dataset-source.ts";
import { call, tenantWithTickets, tickets } from "./api.ts";
import { inLedger } from "./fake-batch-endpoint.ts";

const DATASET = "/v1/datasets/tickets";
const nameOf = ({ id, revision }: Backbone) => `${id}@${revision}`;
const STATIC = nameOf(textStatic);
const COUNT = tickets().length;

async function readEmbedded(key: string) {
  return (await call("GET", DATASET, key)).json.embedded;
}

async function train(key: string, backbone = "text-static-1", more: object = {}) {
  const answer = await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets", backbone, ...more });
  expect(answer.status, answer.text).toBe(201);
  return answer.json;
}

async function addExamples(key: string, examples: readonly object[]) {
  const answer = await call("POST", `${DATASET}/examples`, key, { examples });
  expect(answer.status, answer.text).toBe(200);
}

async function firstExample(key: string) {
  return (await call("GET", `${DATASET}/examples?limit=1`, key)).json.data[0];
}

/** What a training of the present rows would have to embed. */
async function readMissing(tenant: string, backbone = STATIC) {
  const rows = await getLedger(env.TENANT, tenant).readTrainingRows("tickets", backbone);
  if (!rows.ok) throw new Error(rows.failure.message);
  return rows.value.missingInputs;
}

describe("what is embedded", () => {
  test("is nothing at first, all after a training, and stays so where another trains", async () => {
    const { id, key } = await tenantWithTickets();
    expect(await readEmbedded(key)).toEqual({});
    expect((await readMissing(id)).count).toBe(COUNT);
    for (const _ of [1, 2]) {
      await train(key);
      expect(await readEmbedded(key)).toEqual({ [STATIC]: COUNT });
    }
    expect(await readMissing(id)).toEqual({ count: 0, bytes: 0 });
    const listed = (await call("GET", "/v1/datasets", key)).json.data[0];
    expect(listed.embedded).toEqual({ [STATIC]: COUNT });
  });

  test("leaves out a text that was changed or deleted since, once, and keeps one under another label", async () => {
    const { id, key } = await tenantWithTickets();
    await train(key);
    const example = await firstExample(key);
    const path = `${DATASET}/examples/${example.id}`;
    const replace = async (text: string, label: string) =>
      expect((await call("PATCH", path, key, { text, label })).status).toBe(200);
    await replace(example.text, "login");
    expect(await readEmbedded(key)).toEqual({ [STATIC]: COUNT });
    await replace("something else", "login");
    expect(await readEmbedded(key)).toEqual({ [STATIC]: COUNT - 1 });
    await replace("something else again", "login");
    expect(await readMissing(id)).toEqual({ count: 1, bytes: "something else again".length });
    expect((await call("DELETE", path, key)).status).toBe(200);
    expect(await readEmbedded(key)).toEqual({ [STATIC]: COUNT - 1 });
    const renamed = await call("POST", `${DATASET}/labels/rename`, key, { label: "shipping", to: "delivery" });
    expect([renamed.status, renamed.json.dataset.embedded]).toEqual([200, { [STATIC]: COUNT - 1 }]);
    const removed = await call("POST", `${DATASET}/labels/delete`, key, { label: "delivery" });
    expect([removed.status, removed.json.dataset.embedded]).toEqual([200, { [STATIC]: COUNT - 6 }]);
  });

  test("counts rows that an import replaces or adds once they are embedded, also where the text came back", async () => {
    const { id, key } = await tenantWithTickets();
    const [one] = tickets();
    await addExamples(key, [{ id: "a", text: "to be replaced", label: "login" }]);
    await train(key);
    await addExamples(key, [
      { id: "a", text: "replaced", label: "login" },
      { text: "new", label: "login" },
    ]);
    expect(await readEmbedded(key)).toEqual({ [STATIC]: COUNT });
    expect((await readMissing(id)).count).toBe(2);
    await train(key);
    expect(await readEmbedded(key)).toEqual({ [STATIC]: COUNT + 2 });
    // Its embedding is still in the block, and nothing is written.
    const example = await firstExample(key);
    const wasFirst = tickets().find(({ text }) => text === example.text) ?? one;
    expect((await call("DELETE", `${DATASET}/examples/${example.id}`, key)).status).toBe(200);
    await addExamples(key, [{ text: example.text, label: wasFirst?.label }]);
    expect(await readEmbedded(key)).toEqual({ [STATIC]: COUNT + 1 });
    await train(key);
    expect(await readEmbedded(key)).toEqual({ [STATIC]: COUNT + 2 });
  });

  test("stays where a past revision is trained on, whose rows are kept beside", async () => {
    const { id, key } = await tenantWithTickets();
    const { revision } = (await call("GET", DATASET, key)).json;
    const example = await firstExample(key);
    await call("PATCH", `${DATASET}/examples/${example.id}`, key, { text: "another text", label: example.label });
    await train(key);
    const embed = vi.spyOn(textStatic, "embed");
    const trainPast = async () => {
      embed.mockClear();
      await train(key, "text-static-1", { dataset_revision: revision, hyperparameters: { l2: 1 } });
      return embed.mock.calls.flatMap(([inputs]) => inputs);
    };
    expect(await trainPast()).toEqual([example.text]);
    expect(await readEmbedded(key)).toEqual({ [STATIC]: COUNT });
    expect((await readMissing(id)).count).toBe(0);
    expect(await trainPast()).toEqual([]);
    embed.mockClear();
    await train(key);
    expect(embed.mock.calls).toEqual([]);
    embed.mockRestore();
  });

  test("is not counted where an earlier build wrote the block, or KV keeps it no longer", async () => {
    const { id, key } = await tenantWithTickets();
    await train(key);
    await inLedger(id, ({ sql }) => void sql.exec("UPDATE blocks SET embedded = NULL, expires_at = NULL"));
    expect(await readEmbedded(key)).toEqual({});
    await train(key);
    expect(await readEmbedded(key)).toEqual({ [STATIC]: COUNT });
    await inLedger(id, ({ sql }) => void sql.exec("UPDATE blocks SET expires_at = 1"));
    expect(await readEmbedded(key)).toEqual({});
    expect((await readMissing(id)).count).toBe(COUNT);
  });

  test("is another tenant's own, and goes with the dataset", async () => {
    const { key } = await tenantWithTickets();
    await train(key);
    const other = await tenantWithTickets();
    expect(await readEmbedded(other.key)).toEqual({});
    expect((await call("DELETE", DATASET, key)).status).toBe(200);
    await call("POST", "/v1/datasets", key, { name: "tickets", task: "single_label", modality: "text" });
    await addExamples(key, tickets());
    expect(await readEmbedded(key)).toEqual({});
  });
});

describe("embeddings that are kept in 8 bits", () => {
  test("are those that a training uses, whether they were just computed or read again", async () => {
    const { id, key } = await tenantWithTickets();
    const first = await train(key, "text-use-1");
    const second = await train(key, "text-use-1");
    const exported = async ({ version }: { version: number }) =>
      (await call("GET", `/v1/heads/support/versions/${version}/export`, key)).json;
    const [a, b] = [await exported(first), await exported(second)];
    expect(b.weights).toEqual(a.weights);
    const inline = await call("POST", "/v1/heads", key, {
      name: "support",
      examples: tickets(),
      backbone: "text-use-1",
    });
    expect((await exported(inline.json)).weights).toEqual(a.weights);

    const rows = await getLedger(env.TENANT, id).readTrainingRows("tickets", nameOf(textUse));
    if (!rows.ok) throw new Error(rows.failure.message);
    const [blockKey = ""] = rows.value.blocks.values();
    const bytes = new Uint8Array((await env.KV.get(blockKey, "arrayBuffer")) ?? []);
    expect(new TextDecoder().decode(bytes.subarray(0, 4))).toBe("GEB3");
    expect(bytes.length).toBe(12 + COUNT * (16 + 4 + 768));
    const block = await readBlock(env.KV, blockKey, 768);
    const { rows: exact } = await textUse.embed([tickets()[0]?.text ?? ""]);
    const kept = block?.rows.subarray(0, 768) ?? [];
    const norm = Math.hypot(...kept);
    const dot = exact[0]?.reduce((sum, value, j) => sum + value * (kept[j] ?? 0), 0) ?? 0;
    expect(dot / norm).toBeGreaterThan(0.9999);
  });

  test("count towards a training's budget alone where they are missing", async () => {
    const { id, key } = await tenantWithTickets();
    const ledger = getLedger(env.TENANT, id);
    const readWork = async (backbone: Backbone) => {
      const rows = await ledger.readTrainingRows("tickets", nameOf(backbone));
      if (!rows.ok) throw new Error(rows.failure.message);
      return createDatasetSource({ kv: env.KV, tenant: id, ledger }, rows.value, backbone).textBytes;
    };
    const bytes = tickets().reduce((sum, { text }) => sum + text.length, 0);
    expect(await readWork(textUse)).toBe(40 * bytes);
    await train(key, "text-use-1");
    expect(await readWork(textUse)).toBe(0);
    await addExamples(key, [{ text: "four", label: "login" }]);
    expect(await readWork(textUse)).toBe(40 * 4);
    await train(key);
    expect(await readWork(textStatic)).toBe(bytes + 4);
  });
});
