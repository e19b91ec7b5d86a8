/** Gathering what a training reads: bounded in texts held, calls in flight and time without a turn for others. */
import { env } from "cloudflare:workers";
import { describe, expect, test } from "vitest";
import type { Backbone } from "../../src/backbones/backbone.ts";
import { limits } from "../../src/core/limits.ts";
import { toStored } from "../../src/http/example-input.ts";
import { runTraining } from "../../src/http/training.ts";
import { datasetSource, inlineSource } from "../../src/http/training-source.ts";
import { BLOCK_ROWS, type BlockWork, gatherBlocks } from "../../src/store/embeddings.ts";
import { shortHash } from "../../src/store/hash.ts";
import { ledger } from "../../src/tenant/tenant.ts";
import { call, newTenant } from "./api.ts";

const DIMENSIONS = 4;

type Embed = (inputs: readonly string[]) => Promise<void> | void;

/** A backbone that calls `during` while it embeds, and counts the inputs of each call. */
function fakeBackbone(cost: "local" | "remote", during: Embed = () => undefined): Backbone & { calls: number[] } {
  const calls: number[] = [];
  const made = { license: "none", parameters: 0, bytes: 0, cost, kind: cost === "local" ? "hash" : "openai" } as const;
  const embed = async (inputs: readonly string[]) => {
    calls.push(inputs.length);
    await during(inputs);
    return { rows: inputs.map(embedding), failure: null };
  };
  return { id: "fake", revision: "1", modality: "text", dimensions: DIMENSIONS, ...made, calls, embed };
}

function embedding(input: string): Float32Array {
  return Float32Array.from(shortHash(input).subarray(0, DIMENSIONS));
}

/** Work on these texts, of which the ledger answers `atOnce` at a time. */
function workOn(texts: readonly string[], backbone: Backbone, atOnce = BLOCK_ROWS): BlockWork {
  return {
    kv: env.KV,
    tenant: `gathering-${crypto.randomUUID().slice(0, 8)}`,
    backbone,
    rows: {
      dataset: { id: 1 },
      positions: Uint32Array.from(texts, (_, i) => i),
      inputHashes: Uint8Array.from(texts.flatMap((text) => [...shortHash(text)])),
      blocks: new Map(),
    },
    inputs: async (positions) => positions.slice(0, atOnce).map((position) => texts[position] ?? null),
    turn: async () => null,
    deliver: () => undefined,
    record: async () => undefined,
  };
}

/** A tenant's data set of these texts, with two labels. */
async function datasetOf(texts: readonly string[]) {
  const { id, key } = await newTenant();
  await call("POST", "/v1/datasets", key, { name: "texts", task: "single_label", modality: "text" });
  const body = texts.map((text, i) => JSON.stringify({ text, label: i % 2 ? "odd" : "even" })).join("\n");
  const headers = { "content-type": "application/x-ndjson" };
  const imported = await call("POST", "/v1/datasets/texts/examples", key, body, headers);
  expect(imported.json).toMatchObject({ added: texts.length });
  const tenant = ledger(env.TENANT, id);
  const read = async () => {
    const rows = await tenant.readTrainingRows("texts", "fake@1");
    if (!rows.ok) throw new Error(rows.failure.message);
    return rows.value;
  };
  const source = async (backbone: Backbone, kv: KVNamespace = env.KV) =>
    datasetSource(kv, id, tenant, await read(), backbone);
  return { read, source };
}

const options = { l2: 1, classWeight: null, seed: 0, evaluation: { method: "none" } } as const;

describe("texts", () => {
  const long = Array.from({ length: 60 }, (_, i) => `${i} `.padEnd(limits.text_characters, "x"));

  test("are embedded as they are read, by a local backbone with a turn for others before each stretch", async () => {
    const events: string[] = [];
    const backbone = fakeBackbone("local", (inputs) => {
      events.push("embed");
      expect(inputs.join("").length).toBeLessThan(200_000 + limits.text_characters);
    });
    const work = workOn(long, backbone, 20);
    const done = await gatherBlocks({
      ...work,
      inputs: async (positions) => {
        events.push("read");
        return work.inputs(positions);
      },
      turn: async () => {
        events.push("turn");
        return null;
      },
    });
    expect(done).toEqual({ embedded: 60, cached: 0, failure: null });
    const stretches = ["turn", "embed", "turn", "embed", "turn", "embed"];
    expect(events).toEqual([...["read", ...stretches], ...["read", ...stretches], ...["read", ...stretches]]);
  });

  test("of one block alone are held at a time", async () => {
    let held = 0;
    let most = 0;
    const texts = Array.from({ length: 5 * BLOCK_ROWS }, (_, i) => `text ${i}`);
    const backbone = fakeBackbone("remote", async (inputs) => {
      await scheduler.wait(1);
      held -= inputs.length;
    });
    const work = workOn(texts, backbone, 300);
    const inputs = async (positions: readonly number[]) => {
      const answer = await work.inputs(positions);
      held += answer.length;
      most = Math.max(most, held);
      return answer;
    };
    expect(await gatherBlocks({ ...work, inputs })).toMatchObject({ embedded: texts.length, failure: null });
    expect(most).toBe(300);
  });

  test("sent along are embedded a stretch at a time too", async () => {
    const examples = long.slice(0, 20).map((text, i) => toStored(null, text, `label ${i % 2}`));
    const backbone = fakeBackbone("local");
    const source = inlineSource("single_label", examples, backbone, DIMENSIONS);
    expect(source.textBytes).toBe(20 * limits.text_characters);
    expect(await runTraining(source, options)).toMatchObject({ ok: true, value: { embedded: 20 } });
    expect(backbone.calls).toEqual([7, 7, 6]);
  });

  test("count towards the budget where a local backbone embeds them, and are refused before it is asked", async () => {
    const { source } = await datasetOf(["one", "twö", "three", "four"]);
    expect((await source(fakeBackbone("local"))).textBytes).toBe(16);
    expect((await source(fakeBackbone("remote"))).textBytes).toBe(0);
    const backbone = fakeBackbone("local");
    const tooLong = { ...(await source(backbone)), textBytes: 500_000_000 };
    const refused = await runTraining(tooLong, options);
    if (refused.ok) throw new Error("It was not refused.");
    expect(refused.failure).toMatchObject({ code: "edge_budget_exceeded", message: expect.stringMatching(/texts/) });
    const { estimate, budget } = refused.failure.details as Record<string, { operations: number; bytes: number }>;
    expect(estimate?.operations).toBeGreaterThan(budget?.operations ?? 0);
    expect(estimate?.bytes).toBeLessThan(budget?.bytes ?? 0);
    expect(backbone.calls).toEqual([]);
  });
});

test("a gathering that is cut off goes on from the last whole block", async () => {
  const texts = Array.from({ length: 2 * BLOCK_ROWS + 10 }, (_, i) => `text ${i}`);
  const { read, source } = await datasetOf(texts);
  const cut = fakeBackbone("local", (inputs) => {
    if (inputs.length < BLOCK_ROWS) throw new Error("The isolate was ended.");
  });
  await expect(runTraining(await source(cut), options)).rejects.toThrow("ended");
  expect([...(await read()).blocks.keys()]).toEqual([0, 1]);
  const again = fakeBackbone("local");
  expect(await runTraining(await source(again), options)).toMatchObject({ ok: true, value: { embedded: 10 } });
  expect(again.calls).toEqual([10]);
});
