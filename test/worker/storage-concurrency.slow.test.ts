/** Requests at the same time on the same things: one order or another, nothing half, nothing twice. */
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { hashText } from "../../src/backbones/hash-text.ts";
import { fail } from "../../src/core/failure.ts";
import { toStoredExample } from "../../src/ingest/example.ts";
import { tenantPrefix } from "../../src/store/keys.ts";
import { getLedger, type Ledger } from "../../src/tenant/tenant.ts";
import { workerdTensorBackend } from "../../src/tensor/workerd.ts";
import { storeHead, toHeadRecord } from "../../src/training/artifacts.ts";
import { createInlineSource } from "../../src/training/inline-source.ts";
import { runTraining } from "../../src/training/run.ts";
import { trainingSlot } from "../../src/training/slot.ts";
import type { TrainingSource } from "../../src/training/source.ts";
import { type ApiResponse, call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { keepHolderAlive, speedUpClock } from "./clock.ts";
import { requester } from "./requester.ts";

const quickParams = { evaluation: { method: "none" } } as const;

function postHead(key: string, name: string, l2 = 1, headers: Record<string, string> = {}): Promise<ApiResponse> {
  return call("POST", "/v1/heads", key, { name, dataset: "tickets", hyperparameters: { l2 }, ...quickParams }, headers);
}

/** Runs the same thing n times at once. */
function runParallel<T>(n: number, run: (i: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: n }, (_, i) => run(i)));
}

function countByStatus(answers: readonly ApiResponse[]): Record<number, number> {
  const counts: Record<number, number> = {};
  for (const { status } of answers) counts[status] = (counts[status] ?? 0) + 1;
  return counts;
}

async function newTextDataset(key: string, name = "texts"): Promise<void> {
  const response = await call("POST", "/v1/datasets", key, { name, task: "single_label", modality: "text" });
  expect(response.status, response.text).toBe(201);
}

const makeRows = (n: number, prefix: string) =>
  Array.from({ length: n }, (_, i) => JSON.stringify({ text: `${prefix} ${i}`, label: `label ${i % 3}` })).join("\n");
const ndjson = { "content-type": "application/x-ndjson" };

describe("imports", () => {
  test("20 at once into one data set all arrive, whole", async () => {
    const { key } = await newTenant();
    await newTextDataset(key);
    const answers = await runParallel(20, (i) =>
      call("POST", "/v1/datasets/texts/examples", key, makeRows(700, `import ${i}`), ndjson),
    );
    expect(countByStatus(answers)).toEqual({ 200: 20 });
    for (const { json } of answers) expect(json).toMatchObject({ added: 700, updated: 0, unchanged: 0, rejected: 0 });
    const dataset = (await call("GET", "/v1/datasets/texts", key)).json;
    expect(dataset).toMatchObject({ examples: 14_000, revision: 20 });
    const exampleCounts = answers.map(({ json }) => json.dataset.examples).sort((a, b) => a - b);
    expect(exampleCounts, "each import shows all of itself, and of those before it").toEqual(
      Array.from({ length: 20 }, (_, i) => 700 * (i + 1)),
    );
    const exported = (await call("GET", "/v1/datasets/texts/export", key)).text.trim().split("\n");
    const ids = exported.map((line) => JSON.parse(line).id);
    expect(new Set(ids).size).toBe(14_000);
  });

  test("20 at once of the same rows add each once", async () => {
    const { key } = await newTenant();
    await newTextDataset(key);
    const answers = await runParallel(20, () =>
      call("POST", "/v1/datasets/texts/examples", key, makeRows(200, "same"), ndjson),
    );
    expect(answers.map(({ json }) => json.added).sort()).toEqual([...Array(19).fill(0), 200].sort());
    expect((await call("GET", "/v1/datasets/texts", key)).json).toMatchObject({ examples: 200, revision: 1 });
  });

  test("while the data set is deleted either count whole or find nothing", async () => {
    const { key } = await newTenant();
    for (let round = 0; round < 4; round++) {
      await newTextDataset(key);
      const imports = runParallel(4, (i) =>
        call("POST", "/v1/datasets/texts/examples", key, makeRows(1500, `round ${round} import ${i}`), ndjson),
      );
      await scheduler.wait(round * 40);
      const deleted = await call("DELETE", "/v1/datasets/texts", key);
      const answers = await imports;
      expect(deleted.status, deleted.text).toBe(200);
      for (const answer of answers) expect([200, 404, 409], answer.text).toContain(answer.status);
      expect((await call("GET", "/v1/datasets/texts", key)).status).toBe(404);
      await newTextDataset(key);
      expect((await call("GET", "/v1/datasets/texts", key)).json).toMatchObject({ examples: 0, labels: {} });
      await call("DELETE", "/v1/datasets/texts", key);
    }
  });

  test("into a data set that was deleted and made again under its name do not cross over", async () => {
    const { key } = await newTenant();
    await newTextDataset(key);
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const importing = call("POST", "/v1/datasets/texts/examples", key, readable, ndjson);
    const writer = writable.getWriter();
    const encoder = new TextEncoder();
    await writer.write(encoder.encode(`${makeRows(1500, "first")}\n`));
    expect((await call("DELETE", "/v1/datasets/texts", key)).status).toBe(200);
    await newTextDataset(key);
    await writer.write(encoder.encode(makeRows(10, "last"))).catch(() => undefined);
    await writer.close().catch(() => undefined);
    expect((await importing).status).toBe(404);
    expect((await call("GET", "/v1/datasets/texts", key)).json).toMatchObject({ examples: 0, revision: 0 });
  });
});

describe("trainings", () => {
  test("20 at once of one head make versions without gaps or doubles, and those refused say when to come again", async () => {
    const { key } = await tenantWithTickets();
    const answers = await runParallel(20, (i) => postHead(key, "support", 1 + i));
    const createdResponses = answers.filter(({ status }) => status === 201);
    const refused = answers.filter(({ status }) => status !== 201);
    for (const answer of refused) {
      expect(answer.status, answer.text).toBe(503);
      expect(answer.json.error.type).toBe("capacity_error");
      expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
    }
    expect(createdResponses.length).toBeGreaterThan(0);
    const versions = createdResponses.map(({ json }) => json.version).sort((a, b) => a - b);
    expect(versions).toEqual(Array.from(versions, (_, i) => i + 1));
    const listed = (await call("GET", "/v1/heads/support/versions?limit=100", key)).json.data;
    expect(listed.map(({ version }: { version: number }) => version).reverse()).toEqual(versions);
    for (const version of versions) {
      const predicted = await call("POST", "/v1/heads/support/predict", key, { version, input: "refund the charge" });
      expect(predicted.status, predicted.text).toBe(200);
    }
  });

  test("beyond what waits a minute for its turn is refused, with a time to come again, and changes nothing", async () => {
    const { key } = await tenantWithTickets();
    const gathering = Promise.withResolvers<void>();
    const gathered = Promise.withResolvers<{ ok: true; value: { embedded: number } }>();
    const source: TrainingSource = {
      task: "single_label",
      modality: "text",
      dimensions: 1,
      examples: 2,
      textBytes: 0,
      prepare: null,
      texts: null,
      groups: Int32Array.of(0, 1),
      targets: { labels: ["a", "b"], targets: { kind: "single", indices: Int32Array.of(0, 1) } },
      gatherFeatures: (deliver) => {
        deliver(0, Float32Array.of(0, 1));
        gathering.resolve();
        return gathered.promise;
      },
    };
    const evaluation = { method: "none" } as const;
    const blockingTraining = runTraining(requester, source, { l2: 1, classWeight: null, seed: 0, evaluation });
    await gathering.promise;
    keepHolderAlive(trainingSlot);
    speedUpClock(50);
    const refused = await postHead(key, "support", 1, { "idempotency-key": "busy" });
    vi.restoreAllMocks();
    expect(refused.status, refused.text).toBe(503);
    expect(refused.json.error).toMatchObject({ type: "capacity_error", code: "capacity_exceeded" });
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    expect((await call("GET", "/v1/heads/support", key)).status).toBe(404);
    gathered.resolve({ ok: true, value: { embedded: 0 } });
    expect((await blockingTraining).ok).toBe(true);
    expect((await postHead(key, "support", 1, { "idempotency-key": "busy" })).status).toBe(201);
  });

  describe("that stand still", () => {
    beforeEach(() => {
      vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "Date"] });
    });
    afterEach(() => {
      vi.useRealTimers();
    });

    const source = (gatherFeatures: TrainingSource["gatherFeatures"]): TrainingSource => ({
      task: "single_label",
      modality: "text",
      dimensions: 1,
      examples: 2,
      textBytes: 0,
      prepare: null,
      texts: null,
      groups: Int32Array.of(0, 1),
      targets: { labels: ["a", "b"], targets: { kind: "single", indices: Int32Array.of(0, 1) } },
      gatherFeatures,
    });
    const completeSource = source(async (deliver) => {
      deliver(0, Float32Array.of(0, 1));
      return { ok: true, value: { embedded: 0 } };
    });
    const options = { l2: 1, classWeight: null, seed: 0, evaluation: { method: "none" } } as const;

    /** A training that has half of its features, and waits for the other half until `end`. */
    async function startStalledTraining(yields = true) {
      const [stalledSignal, ended] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      const features: TrainingSource["gatherFeatures"] = async (deliver, turn) => {
        deliver(0, Float32Array.of(0));
        stalledSignal.resolve();
        await ended.promise;
        const failure = yields ? await turn() : null;
        if (failure !== null) return { ok: false, failure };
        deliver(1, Float32Array.of(1));
        return { ok: true, value: { embedded: 2 } };
      };
      const training = runTraining(requester, source(features), options);
      await stalledSignal.promise;
      return { training, end: ended.resolve };
    }

    test.each([
      ["hear of it at their next turn", true],
      ["do not train on what is left", false],
    ])("and show no sign of life make room, with their memory at once, and %s", async (_, yields) => {
      const { training, end } = await startStalledTraining(yields);
      // Nothing beats: the platform has ended the request.
      vi.setSystemTime(Date.now() + 31_000);
      expect((await runTraining(requester, completeSource, options)).ok).toBe(true);
      expect((await workerdTensorBackend()).memory().matrices).toBe(0);
      end();
      expect(await training).toMatchObject({ ok: false, failure: { code: "capacity_exceeded", retryAfter: 5 } });
      expect((await workerdTensorBackend()).memory().matrices).toBe(0);
      expect((await runTraining(requester, completeSource, options)).ok).toBe(true);
    });

    test("but live keep their place", async () => {
      const { training, end } = await startStalledTraining();
      vi.advanceTimersByTime(300_000);
      const refused = runTraining(requester, completeSource, options);
      await scheduler.wait(10);
      vi.advanceTimersByTime(61_000);
      expect(await refused).toMatchObject({ ok: false, failure: { code: "capacity_exceeded" } });
      end();
      expect((await training).ok).toBe(true);
      expect(vi.getTimerCount()).toBe(0);
    });
  });

  test("and promotions at once leave the pointer on a version that is there", async () => {
    const { key } = await tenantWithTickets();
    await postHead(key, "support", 1);
    await postHead(key, "support", 2);
    const answers = await Promise.all([
      postHead(key, "support", 3),
      ...[1, 2, 1, 2].map((version) => call("POST", "/v1/heads/support/promote", key, { version })),
      call("POST", "/v1/heads/support/promote", key, { version: 99 }),
      postHead(key, "support", 4),
    ]);
    expect(answers.map(({ status }) => status)).toEqual([201, 200, 200, 200, 200, 404, 201]);
    const head = (await call("GET", "/v1/heads/support", key)).json;
    expect([1, 2, 3, 4]).toContain(head.active_version);
    expect(head.version).toBe(head.active_version);
    const predicted = await call("POST", "/v1/heads/support/predict", key, { input: "refund the charge" });
    expect(predicted.json.model).toBe(`support@${head.active_version}`);
  });

  test("with promote: false leave the pointer where a promotion has put it meanwhile", async () => {
    const { key } = await tenantWithTickets();
    await postHead(key, "support", 1);
    await postHead(key, "support", 2);
    const body = { name: "support", dataset: "tickets", promote: false, ...quickParams };
    await Promise.all([
      call("POST", "/v1/heads", key, { ...body, hyperparameters: { l2: 3 } }),
      call("POST", "/v1/heads/support/promote", key, { version: 1 }),
    ]);
    expect((await call("GET", "/v1/heads/support", key)).json.active_version).toBe(1);
  });

  test("while the head is deleted begin again at version 1 or are gone with it, their bytes where they belong", async () => {
    const { key } = await tenantWithTickets();
    for (let round = 0; round < 5; round++) {
      await postHead(key, "support");
      const [trained, deleted] = await Promise.all([
        postHead(key, "support"),
        call("DELETE", "/v1/heads/support", key),
      ]);
      expect(deleted.status, deleted.text).toBe(200);
      // Equal bytes may be deleted for the head that is gone while this training stores them: then it says so.
      expect([201, 503], trained.text).toContain(trained.status);
      const head = await call("GET", "/v1/heads/support", key);
      expect([200, 404]).toContain(head.status);
      if (head.status === 200) {
        const predicted = await call("POST", "/v1/heads/support/predict", key, { input: "refund the charge" });
        expect(predicted.status, predicted.text).toBe(200);
        const { sha256, version } = head.json;
        expect(version).toBe(1);
        expect(sha256).toMatch(/^[0-9a-f]{64}$/);
        await call("DELETE", "/v1/heads/support", key);
      }
    }
  });

  test("while examples are added and edited are refused as changed or trained on one revision", async () => {
    const { key } = await tenantWithTickets();
    const edits = runParallel(6, (i) =>
      call("POST", "/v1/datasets/tickets/examples", key, {
        examples: [{ id: "edited", text: `refund number ${i}`, label: "billing" }],
      }),
    );
    // One trains, one waits.
    const answers = await runParallel(2, (i) => postHead(key, `head-${i}`));
    for (const { status } of await edits) expect(status).toBe(200);
    for (const answer of answers) expect([201, 409], answer.text).toContain(answer.status);
    for (const { json, status } of answers) {
      if (status === 201) expect([18, 19]).toContain(json.dataset.examples);
      else expect(json.error.code).toBe("dataset_changed");
    }
  });
});

describe("one Idempotency-Key at once", () => {
  test("trains once: the others wait their turn or get the same answer", async () => {
    const { key } = await tenantWithTickets();
    const answers = await runParallel(5, () => postHead(key, "support", 1, { "idempotency-key": "once" }));
    const first = answers.filter((a) => a.status === 201 && a.headers.get("idempotent-replayed") === null);
    expect(first).toHaveLength(1);
    for (const answer of answers) {
      if (answer === first[0]) continue;
      expect([201, 409], answer.text).toContain(answer.status);
      if (answer.status === 201) expect(answer.json).toEqual(first[0]?.json);
      else expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
    }
    expect((await call("GET", "/v1/heads/support/versions", key)).json.data).toHaveLength(1);
    const replayed = await postHead(key, "support", 1, { "idempotency-key": "once" });
    expect(replayed.headers.get("idempotent-replayed")).toBe("true");
    expect(replayed.json).toEqual(first[0]?.json);
  });

  test("makes one data set and one API key", async () => {
    const { key } = await newTenant();
    const idempotencyHeaders = { "idempotency-key": "once" };
    const dataset = { name: "texts", task: "single_label", modality: "text" };
    const datasets = await runParallel(5, () => call("POST", "/v1/datasets", key, dataset, idempotencyHeaders));
    for (const { status } of datasets) expect([201, 409]).toContain(status);
    const apiKey = { name: "worker", scopes: ["predict"] };
    await runParallel(5, () => call("POST", "/v1/api_keys", key, apiKey, { "idempotency-key": "another" }));
    expect((await call("GET", "/v1/api_keys", key)).json.data).toHaveLength(2);
  });
});

describe("tenants", () => {
  test("of one id, created at once, are one tenant with one key", async () => {
    const id = `race-${crypto.randomUUID().slice(0, 8)}`;
    const answers = await runParallel(5, () => call("POST", "/v1/admin/tenants", env.ADMIN_KEY, { id }));
    expect(countByStatus(answers)).toEqual({ 201: 1, 409: 4 });
    const key = answers.find(({ status }) => status === 201)?.json.key.secret;
    expect((await call("GET", "/v1/api_keys", key)).json.data).toHaveLength(1);
  });

  test("deleted while they import and train leave nothing that can be read", async () => {
    const { id, key } = await tenantWithTickets();
    const work = Promise.all([
      postHead(key, "support"),
      call("POST", "/v1/datasets/tickets/examples", key, makeRows(1500, "late"), ndjson),
      postHead(key, "other"),
    ]);
    const deleted = await call("DELETE", `/v1/admin/tenants/${id}`, env.ADMIN_KEY);
    expect(deleted.status).toBe(202);
    for (const answer of await work) expect(answer.status, answer.text).toBeLessThan(500);
    for (const path of ["/v1/datasets", "/v1/heads", "/v1/datasets/tickets"])
      expect((await call("GET", path, key)).status).toBe(401);
  });

  test("erased while a head is trained keep nothing of it; what another refusal leaves may belong to a version", async () => {
    const { id } = await tenantWithTickets();
    const tenant = getLedger(env.TENANT, id);
    const examples = tickets().map(({ text, label }) => toStoredExample(null, text, label));
    const options = { l2: 1, classWeight: null, seed: 0, evaluation: { method: "none" } } as const;
    const trained = await runTraining(requester, createInlineSource("single_label", examples, hashText, 384), options);
    if (!trained.ok) throw new Error(trained.failure.message);
    const head = {
      id: "late",
      modality: "text",
      backbone: { id: hashText.id, revision: hashText.revision },
      dataset: { name: null, revision: null, examples: examples.length },
    } as const;
    const { bytes, record } = toHeadRecord(env, { ...trained.value, candidates: [], backbone: hashText }, head, 1);
    const storeVersion = (to: Ledger) =>
      storeHead(env.BUCKET, id, bytes, record, (newHead) => to.commitHead(null, newHead, true));
    const countStored = async () => (await env.BUCKET.list({ prefix: tenantPrefix(id) })).objects.length;

    const full: Ledger = Object.create(tenant, {
      commitHead: { value: async () => fail("limit_exceeded", "There are too many.") },
    });
    expect(await storeVersion(full)).toMatchObject({ ok: false, failure: { code: "limit_exceeded" } });
    expect(await countStored()).toBe(1);
    await tenant.beginDeletion();
    expect(await storeVersion(tenant)).toMatchObject({ ok: false, failure: { code: "not_found" } });
    expect(await countStored()).toBe(0);
    while ((await tenant.erase(id)) !== null);
    expect(await storeVersion(tenant)).toMatchObject({ ok: false, failure: { code: "not_found" } });
    expect(await countStored()).toBe(0);
  });
});
