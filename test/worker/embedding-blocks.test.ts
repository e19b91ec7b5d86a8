/** Gathering what a training reads: bounded in texts held, calls in flight and time without a turn for others. */
import { env } from "cloudflare:workers";
import { afterEach, describe, expect, test, vi } from "vitest";
import type { Backbone } from "../../src/backbones/backbone.ts";
import { openAiBackbone } from "../../src/backbones/openai.ts";
import type { Result } from "../../src/core/failure.ts";
import { limits } from "../../src/core/limits.ts";
import { toStoredExample } from "../../src/ingest/example.ts";
import { shortHash } from "../../src/lib/hash.ts";
import { BLOCK_ROWS, readBlock, writeBlock } from "../../src/store/blocks.ts";
import { type GatherBlocksParams, gatherBlocks } from "../../src/store/gather.ts";
import { beginChanges, commitChanges, removeExample } from "../../src/tenant/data/changes.ts";
import { deleteDataset, findDataset } from "../../src/tenant/data/datasets.ts";
import { readTrainingRows } from "../../src/tenant/data/training-sets.ts";
import { getLedger } from "../../src/tenant/tenant.ts";
import { Transactions } from "../../src/tenant/transactions.ts";
import { workerdTensorBackend } from "../../src/tensor/workerd.ts";
import { createDatasetSource } from "../../src/training/dataset-source.ts";
import { createInlineSource } from "../../src/training/inline-source.ts";
import { runTraining } from "../../src/training/run.ts";
import { gatheringSlot } from "../../src/training/slot.ts";
import { call, newTenant } from "./api.ts";
import { keepHolderAlive, speedUpClock } from "./clock.ts";
import { inLedger } from "./fake-batch-endpoint.ts";
import { corruptedKv, type FaultyKv, failingKv, rateLimitedKv, staleKv, wrapKv } from "./faulty-kv.ts";
import { requester } from "./requester.ts";

const DIMENSIONS = 4;

type Embed = (inputs: readonly string[]) => Promise<void> | void;

/** A backbone that calls `during` while it embeds, and counts the inputs of each call. */
function fakeBackbone(cost: "local" | "remote", onEmbed: Embed = () => undefined): Backbone & { calls: number[] } {
  const calls: number[] = [];
  const properties = {
    license: "none",
    parameters: 0,
    bytes: 0,
    cost,
    kind: cost === "local" ? "hash" : "openai",
  } as const;
  const embed = async (inputs: readonly string[]) => {
    calls.push(inputs.length);
    await onEmbed(inputs);
    return { rows: inputs.map(embedding), failure: null };
  };
  return { id: "fake", revision: "1", modality: "text", dimensions: DIMENSIONS, ...properties, calls, embed };
}

function embedding(input: string): Float32Array {
  return Float32Array.from(shortHash(input).subarray(0, DIMENSIONS));
}

/** Work on these texts, of which the ledger answers `atOnce` at a time. */
function makeWork(texts: readonly string[], backbone: Backbone, atOnce = BLOCK_ROWS): GatherBlocksParams {
  return {
    kv: env.KV,
    tenant: `gathering-${crypto.randomUUID().slice(0, 8)}`,
    backbone,
    rows: {
      dataset: { id: 1 },
      positions: Uint32Array.from(texts, (_, i) => i),
      inputHashes: Uint8Array.from(texts.flatMap((text) => [...shortHash(text)])),
      blocks: new Map(),
      incompleteBlocks: new Set(),
      isPartial: false,
    },
    readInputs: async (positions) => positions.slice(0, atOnce).map((position) => texts[position] ?? null),
    yieldToEventLoop: async () => null,
    retainedBlocks: new Map(),
    onBlock: () => undefined,
    recordBlock: async () => undefined,
  };
}

/** A tenant's data set of these texts, with two labels. */
async function createDataset(texts: readonly string[]) {
  const { id, key } = await newTenant();
  await call("POST", "/v1/datasets", key, { name: "texts", task: "single_label", modality: "text" });
  const body = texts.map((text, i) => JSON.stringify({ text, label: i % 2 ? "odd" : "even" })).join("\n");
  const headers = { "content-type": "application/x-ndjson" };
  const imported = await call("POST", "/v1/datasets/texts/examples", key, body, headers);
  expect(imported.json).toMatchObject({ added: texts.length });
  const tenant = getLedger(env.TENANT, id);
  const read = async () => {
    const datasetRows = await tenant.readTrainingRows("texts", "fake@1");
    if (!datasetRows.ok) throw new Error(datasetRows.failure.message);
    return datasetRows.value;
  };
  const source = async (backbone: Backbone, kv: KVNamespace = env.KV) =>
    createDatasetSource({ kv, tenant: id, ledger: tenant }, await read(), backbone);
  return { id, read, source, key };
}

const options = { l2: 1, classWeight: null, seed: 0, evaluation: { method: "none" } } as const;

describe("texts", () => {
  const long = Array.from({ length: 60 }, (_, i) => `${i} `.padEnd(limits.text_characters, "x"));

  test("are embedded as they are read, by a local backbone with a turn for others before each stretch", async () => {
    const events: string[] = [];
    const backbone = fakeBackbone("local", (inputs) => {
      events.push("embed");
      expect(inputs.join("").length).toBeLessThan(50_000 + limits.text_characters);
    });
    const work = makeWork(long, backbone, 20);
    const result = await gatherBlocks({
      ...work,
      readInputs: async (positions) => {
        events.push("read");
        return work.readInputs(positions);
      },
      yieldToEventLoop: async () => {
        events.push("turn");
        return null;
      },
    });
    expect(result).toEqual({ embedded: 60, cached: 0, failure: null });
    const batchEvents = Array(10).fill(["turn", "embed"]).flat();
    expect(events).toEqual([...["read", ...batchEvents], ...["read", ...batchEvents], ...["read", ...batchEvents]]);
  });

  test("of one block alone are held at a time", async () => {
    let heldTexts = 0;
    let maxHeld = 0;
    const texts = Array.from({ length: 5 * BLOCK_ROWS }, (_, i) => `text ${i}`);
    const backbone = fakeBackbone("remote", async (inputs) => {
      await scheduler.wait(1);
      heldTexts -= inputs.length;
    });
    const work = makeWork(texts, backbone, 300);
    const readInputs = async (positions: readonly number[]) => {
      const answer = await work.readInputs(positions);
      heldTexts += answer.length;
      maxHeld = Math.max(maxHeld, heldTexts);
      return answer;
    };
    expect(await gatherBlocks({ ...work, readInputs })).toMatchObject({ embedded: texts.length, failure: null });
    expect(maxHeld).toBe(300);
  });

  test("sent along are embedded a stretch at a time too", async () => {
    const examples = long.slice(0, 20).map((text, i) => toStoredExample(null, text, `label ${i % 2}`));
    const backbone = fakeBackbone("local");
    const source = createInlineSource("single_label", examples, backbone, DIMENSIONS);
    expect(source.textBytes).toBe(20 * limits.text_characters);
    expect(await runTraining(requester, source, options)).toMatchObject({ ok: true, value: { embedded: 20 } });
    expect(backbone.calls).toEqual(Array(10).fill(2));
  });

  test.each(["local", "remote"] as const)(
    "are read for lexical features a stretch at a time, stored or sent along, whatever backbone embeds them: %s",
    async (cost) => {
      const backbone = fakeBackbone(cost);
      const { source } = await createDataset(long);
      const examples = long.map((text, i) => toStoredExample(null, text, `label ${i % 2}`));
      for (const trainingSource of [
        await source(backbone),
        createInlineSource("single_label", examples, backbone, DIMENSIONS),
      ]) {
        expect(trainingSource.texts?.bytes).toBe(long.length * limits.text_characters);
        const events: string[] = [];
        const visit = (text: string) => {
          events.push(text.slice(0, 3).trim());
          return events.length < 80;
        };
        const yieldToEventLoop = async () => {
          events.push("turn");
          return null;
        };
        expect(await trainingSource.texts?.forEachText(visit, yieldToEventLoop)).toEqual({ ok: true, value: null });
        const stretches = long.map((text) => ["turn", text.slice(0, 3).trim()]);
        expect(events).toEqual(stretches.flat().slice(0, 80));
        const trained = await runTraining(requester, trainingSource, { ...options, lexical: true });
        expect(trained).toMatchObject({ ok: true, value: { training: { lexical: true } } });
      }
    },
  );

  test("that another request changes while they are read are refused, and so is a training in their place", async () => {
    const texts = Array.from({ length: 20 }, (_, i) => `text ${i}`);
    const { source, key } = await createDataset(texts);
    const trainingSource = await source(fakeBackbone("local"));
    const [example] = (await call("GET", "/v1/datasets/texts/examples?limit=1", key)).json.data;
    expect((await call("DELETE", `/v1/datasets/texts/examples/${example.id}`, key)).status).toBe(200);
    const failure = { ok: false, failure: { code: "dataset_changed", retryAfter: 1 } };
    expect(
      await trainingSource.texts?.forEachText(
        () => true,
        async () => null,
      ),
    ).toMatchObject(failure);
    const before = (await workerdTensorBackend()).memory().matrices;
    expect(await runTraining(requester, trainingSource, { ...options, lexical: true })).toMatchObject(failure);
    expect((await workerdTensorBackend()).memory().matrices).toBe(before);
  });

  test("count towards the budget where they are read for lexical features, also where a remote backbone embeds them", async () => {
    const { source } = await createDataset(["one", "two", "three", "four"]);
    const backbone = fakeBackbone("remote");
    const trainingSource = await source(backbone);
    if (trainingSource.texts === null) throw new Error("There are texts.");
    let shownTexts = 0;
    const showTexts = async () => {
      shownTexts++;
      return { ok: true, value: null } as const;
    };
    const largeSource = { ...trainingSource, texts: { bytes: 200_000_000, forEachText: showTexts } };
    const refused = await runTraining(requester, largeSource, { ...options, lexical: true });
    expect(refused).toMatchObject({ ok: false, failure: { code: "edge_budget_exceeded" } });
    const auto = await runTraining(requester, { ...largeSource, texts: { ...largeSource.texts } }, options);
    expect(auto).toMatchObject({ ok: true, value: { training: { lexical: false } } });
    expect(shownTexts).toBe(0);
  });

  test("count towards the budget where a local backbone embeds them, and are refused before it is asked", async () => {
    const { source } = await createDataset(["one", "twö", "three", "four"]);
    expect((await source(fakeBackbone("local"))).textBytes).toBe(16);
    expect((await source(fakeBackbone("remote"))).textBytes).toBe(0);
    const backbone = fakeBackbone("local");
    const tooLong = { ...(await source(backbone)), textBytes: 500_000_000 };
    const refused = await runTraining(requester, tooLong, options);
    if (refused.ok) throw new Error("It was not refused.");
    expect(refused.failure).toMatchObject({ code: "edge_budget_exceeded", message: expect.stringMatching(/texts/) });
    const { estimate, budget } = refused.failure.details as Record<string, { operations: number; bytes: number }>;
    expect(estimate?.operations).toBeGreaterThan(budget?.operations ?? 0);
    expect(estimate?.bytes).toBeLessThan(budget?.bytes ?? 0);
    expect(backbone.calls).toEqual([]);
  });
});

test("of blocks that KV has, one alone is copied before others run", async () => {
  const texts = Array.from({ length: 3 * BLOCK_ROWS }, (_, i) => `text ${i}`);
  const work = makeWork(texts, fakeBackbone("local"));
  const blocks = new Map<number, string>();
  await gatherBlocks({ ...work, recordBlock: async (block, { key }) => blocks.set(block, key) });
  const events: (number | "other")[] = [];
  let isOver = false;
  const others = (async () => {
    for (; !isOver; await scheduler.wait(0)) if (events.length > 0 && events.at(-1) !== "other") events.push("other");
  })();
  const rows = { ...work.rows, blocks };
  await gatherBlocks({ ...work, rows, onBlock: (block) => void events.push(block) });
  isOver = true;
  await others;
  expect(events.slice(0, 5)).toEqual([0, "other", 1, "other", 2]);
});

describe("the rows of a training", () => {
  const texts = Array.from({ length: 2_500 }, (_, i) => `text ${i}`);

  /** Reads them, and makes a change before the last part. */
  async function readWithChange(change: (ledger: Transactions) => Result<unknown>) {
    const { id } = await createDataset(texts);
    return inLedger(id, async (storage) => {
      const ledger = new Transactions(env, storage);
      const read = ledger.read.bind(ledger);
      let reads = 0;
      ledger.read = (work) => {
        if (++reads === 3) expect(change(ledger)).toMatchObject({ ok: true });
        return read(work);
      };
      return readTrainingRows(ledger, "texts", "fake@1");
    });
  }

  test("are those of one revision, also where another replaces it between two parts", async () => {
    const rows = await readWithChange((ledger) =>
      ledger.changeNow((sql, now) => {
        const dataset = findDataset(sql, "texts");
        if (!dataset.ok) return dataset;
        const changes = beginChanges(dataset.value);
        removeExample(sql, changes, 2_400);
        return commitChanges(sql, changes, now);
      }),
    );
    if (!rows.ok) throw new Error(rows.failure.message);
    const { positions, targets, missingInputs } = rows.value;
    expect([...positions]).toEqual([...texts.keys()]);
    expect(targets[2_400]).toBe('"even"');
    expect(missingInputs.count).toBe(texts.length);
  });

  test("are refused where the dataset is deleted between two parts", async () => {
    const rows = await readWithChange((ledger) => ledger.changeNow((sql, now) => deleteDataset(sql, "texts", now)));
    expect(rows).toMatchObject({ ok: false, failure: { code: "not_found", message: "The dataset was deleted." } });
  });
});

test("a gathering that is cut off goes on from the last whole block", async () => {
  const texts = Array.from({ length: 2 * BLOCK_ROWS + 10 }, (_, i) => `text ${i}`);
  const { read, source } = await createDataset(texts);
  const failingBackbone = fakeBackbone("local", (inputs) => {
    if (inputs.length < BLOCK_ROWS) throw new Error("The isolate was ended.");
  });
  await expect(runTraining(requester, await source(failingBackbone), options)).rejects.toThrow("ended");
  expect([...(await read()).blocks.keys()]).toEqual([0, 1]);
  const secondBackbone = fakeBackbone("local");
  expect(await runTraining(requester, await source(secondBackbone), options)).toMatchObject({
    ok: true,
    value: { embedded: 10 },
  });
  expect(secondBackbone.calls).toEqual([10]);
});

describe("a remote backbone", () => {
  afterEach(() => vi.restoreAllMocks());

  /** A backbone that answers once it is let, and says when it was first asked. */
  function blockedBackbone(): {
    backbone: ReturnType<typeof fakeBackbone>;
    firstCall: Promise<void>;
    release: () => void;
  } {
    const [firstCall, releaseSignal] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const backbone = fakeBackbone("remote", () => {
      firstCall.resolve();
      return releaseSignal.promise;
    });
    return { backbone, firstCall: firstCall.promise, release: releaseSignal.resolve };
  }

  const examples = Array.from({ length: 40 }, (_, i) => toStoredExample(null, `text ${i}`, `label ${i % 2}`));
  const inline = (backbone: Backbone) => createInlineSource("single_label", examples, backbone, DIMENSIONS);

  test("has four calls in flight at most, whatever is gathered", async () => {
    let inFlight = 0;
    let maxInFlight = 0;
    const io = {
      random: () => 0.5,
      sleep: async () => undefined,
      now: Date.now,
      fetch: async (_: string, init: RequestInit) => {
        maxInFlight = Math.max(maxInFlight, ++inFlight);
        await scheduler.wait(1);
        inFlight--;
        const { input } = JSON.parse(init.body as string) as { input: string[] };
        return Response.json({ data: input.map((_text, index) => ({ index, embedding: [1, 2] })) });
      },
    };
    const identity = { id: "remote", revision: "1", license: "none", parameters: 0 };
    const endpoint = { baseUrl: "https://nowhere.test", model: "m", key: undefined, sendDimensions: false } as const;
    const calls = { dimensions: 2, encodingFormat: "float", batchSize: 128, timeout: 20_000, retries: 0 } as const;
    const backbone = openAiBackbone(identity, { ...endpoint, ...calls }, io);
    const texts = Array.from({ length: 6 * BLOCK_ROWS }, (_, i) => `text ${i}`);
    expect(await gatherBlocks(makeWork(texts, backbone))).toMatchObject({ embedded: texts.length, failure: null });
    expect(maxInFlight).toBe(4);
  });

  test("keeps no training waiting that does not need it, and is asked once", async () => {
    const { source } = await createDataset(examples.map(({ input }) => String(input)));
    for (const make of [inline, source]) {
      const blockedCall = blockedBackbone();
      const pendingTraining = runTraining(requester, await make(blockedCall.backbone), options);
      await blockedCall.firstCall;
      expect(await runTraining(requester, inline(fakeBackbone("local")), options)).toMatchObject({ ok: true });
      blockedCall.release();
      expect(await pendingTraining).toMatchObject({ ok: true, value: { embedded: 40 } });
      expect(blockedCall.backbone.calls).toEqual([40]);
    }
  });

  test("is asked by one training of an isolate at a time; others get 503 after a minute, but not what is cached", async () => {
    const { source } = await createDataset(examples.map(({ input }) => String(input)));
    expect(await runTraining(requester, await source(fakeBackbone("remote")), options)).toMatchObject({ ok: true });
    const blockedCall = blockedBackbone();
    const pendingTraining = runTraining(requester, inline(blockedCall.backbone), options);
    await blockedCall.firstCall;
    expect(await runTraining(requester, await source(fakeBackbone("remote")), options)).toMatchObject({ ok: true });
    const other = fakeBackbone("remote");
    keepHolderAlive(gatheringSlot);
    speedUpClock(50);
    expect(await runTraining(requester, inline(other), options)).toMatchObject({
      ok: false,
      failure: { code: "capacity_exceeded", retryAfter: 5 },
    });
    vi.restoreAllMocks();
    expect(other.calls).toEqual([]);
    blockedCall.release();
    expect(await pendingTraining).toMatchObject({ ok: true });
    expect(await runTraining(requester, inline(other), options)).toMatchObject({ ok: true });
  });

  const faults: Readonly<Record<string, () => FaultyKv>> = {
    "nothing wrong": () => wrapKv(env.KV),
    "reads fail": () => failingKv(env.KV, "get"),
    "writes fail": () => failingKv(env.KV, "put"),
    "everything fails": () => failingKv(env.KV, "get", "put"),
    "writes are rate-limited": () => rateLimitedKv(env.KV, Date.now),
    "reads lag": () => staleKv(env.KV, Date.now),
    "values are garbled": () => corruptedKv(env.KV, (value) => value.subarray(1)),
  };
  test.each(Object.entries(faults))(
    "is asked once, and before the training takes its place, where %s",
    async (_, fault) => {
      const texts = Array.from({ length: BLOCK_ROWS + 10 }, (_, i) => `text ${i}`);
      const { source } = await createDataset(texts);
      const backbone = fakeBackbone("remote");
      const trained = await runTraining(requester, await source(backbone, fault().kv), options);
      expect(trained).toMatchObject({ ok: true, value: { embedded: texts.length } });
      expect(backbone.calls).toEqual([BLOCK_ROWS, 10]);
      expect((await workerdTensorBackend()).memory().matrices).toBe(0);
    },
  );

  test("is not asked by a training in its place, even where KV forgets at once", async () => {
    const { source } = await createDataset(examples.map(({ input }) => String(input)));
    const backbone = fakeBackbone("remote");
    const gatheredSource = await source(backbone);
    const forgettingSource = {
      ...gatheredSource,
      prepare: async () => ({ ok: true as const, value: { embedded: 0 } }),
    };
    expect(await runTraining(requester, forgettingSource, options)).toMatchObject({
      ok: false,
      failure: { code: "storage_unavailable", retryAfter: 5 },
    });
    expect(backbone.calls).toEqual([]);
  });
});

test("a block's key has no name that a tenant chose", async () => {
  const block = { dimensions: 1, hashes: shortHash("a"), rows: Float32Array.of(1) };
  const backbone = { id: "ft:text-static-1:a-name-of-ours", revision: "a1b2", cost: "local" } as const;
  const target = { kv: env.KV, tenant: "keys", dataset: 1, backbone, blockNumber: 0 };
  const key = await writeBlock(target, block);
  expect(key).toMatch(/^tenants\/keys\/blocks\/1\/ft@a1b2\/0-[0-9a-f]+$/);
  expect(await readBlock(env.KV, key ?? "", 1)).toEqual(block);
});
