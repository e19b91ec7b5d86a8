/** Traffic: which versions answer and which shadow them, what is counted of both, and when live inputs are unlike the examples. */
import { env } from "cloudflare:workers";
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { noInputs } from "../../src/core/evaluation/input-counts.ts";
import type { ErrorCode } from "../../src/core/failure.ts";
import { noTraffic } from "../../src/core/lifecycle/traffic.ts";
import { endHeadLeases } from "../../src/serving/active-heads.ts";
import { countPredictions } from "../../src/serving/meter.ts";
import type { TenantRequest } from "../../src/serving/tenant-request.ts";
import { type CountBatch, deleteOldCounts, type VersionCounts } from "../../src/tenant/heads/traffic-counts.ts";
import { getLedger } from "../../src/tenant/tenant.ts";
import { call, newTenant, tickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";
import { inLedger } from "./fake-batch-endpoint.ts";
import { listEvents, newHook, postAccepted } from "./inbound-hooks.ts";

const TRAFFIC = "/v1/heads/support/traffic";
const PREDICT = "/v1/heads/support/predict";
interface Owner {
  readonly id: string;
  readonly key: string;
}
let owner: Owner;

const endings = [
  "today",
  "again",
  "please",
  "since monday",
  "for my company",
  "in the app",
  "twice",
  "and nobody helps",
];
/** Tickets of three topics, eight of each ticket. */
const texts = tickets().flatMap(({ text, label }) => endings.map((ending) => ({ text: `${text} ${ending}`, label })));

/** A tenant with so many versions of a head. Only `evaluated` ones have held-out inputs. */
async function newHead(versions = 1, evaluated = false): Promise<Owner> {
  const tenant = await newTenant();
  for (let version = 1; version <= versions; version++) {
    // Without the label of a topic a version answers otherwise.
    const examples = (evaluated ? texts : tickets()).filter(({ label }) => version !== 3 || label !== "shipping");
    const body = {
      name: "support",
      examples,
      promote: version === 1,
      backbone: "text-static-1",
      hyperparameters: { l2: 0.1 * version },
      ...(evaluated ? {} : { evaluation: { method: "none" } }),
    };
    const trained = await call("POST", "/v1/heads", tenant.key, body);
    expect(trained.status, trained.text).toBe(201);
  }
  return tenant;
}

const put = (body: unknown, { key } = owner) => call("PUT", TRAFFIC, key, body);
async function putAccepted(body: unknown, tenant = owner) {
  const answer = await put(body, tenant);
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
}
async function predict(input: unknown, tenant = owner, options: object = {}) {
  const answer = await call("POST", PREDICT, tenant.key, { input, ...options });
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
}
interface VersionReport {
  readonly version: number;
  readonly [figure: string]: unknown;
}
async function report(version: number, { key } = owner) {
  const answer = await call("GET", `${TRAFFIC}/report`, key);
  expect(answer.status, answer.text).toBe(200);
  return answer.json.versions.find((each: VersionReport) => each.version === version);
}
/** Waits until a version's counts have come to this. */
const waitForCounts = (version: number, counts: object, tenant = owner) =>
  vi.waitFor(async () => expect(await report(version, tenant)).toMatchObject(counts), {
    timeout: 15_000,
    interval: 30,
  });

beforeAll(async () => {
  owner = await newHead(4);
});
afterEach(() => {
  vi.restoreAllMocks();
});

describe("the meter", () => {
  test("writes what was predicted after its time, although no further request comes", async () => {
    const inputs = texts.slice(0, 30).map(({ text }) => text);
    await predict(inputs);
    await predict("xyzzyq plugho", owner, { version: 2 });
    await waitForCounts(1, { predictions: 30, shadow_predictions: 0, share: 1, shadow: false, scope: null });
    const { confidence, mean_confidence, labels, unknown_words } = await report(1);
    expect(confidence.reduce((a: number, b: number) => a + b)).toBe(30);
    expect(mean_confidence).toBeGreaterThan(0.5);
    expect(unknown_words).toEqual([30, 0, 0, 0, 0, 0]);
    expect(labels[0]).toEqual({ label: "billing", inputs: 30, share: 1 });
    await waitForCounts(2, { predictions: 1, share: 0, unknown_words: [0, 0, 0, 0, 0, 1] });
  });

  test("counts what an inbound hook predicts", async () => {
    const tenant = await newHead();
    const hook = await newHook(tenant.key);
    await postAccepted(hook, { text: "the payment failed today" });
    await waitForCounts(1, { predictions: 1 }, tenant);
  });

  const counted = async (
    tenant: Owner,
    inputs: number,
    changes: Partial<VersionCounts> = {},
  ): Promise<VersionCounts> => {
    const { sha256 } = (await call("GET", "/v1/heads/support/versions/1", tenant.key)).json;
    const counts = { ...noTraffic, inputs: { ...noInputs, inputs } };
    return { head: "support", version: 1, sha256, counts, ...changes };
  };

  test("counts a batch once that comes twice, or late, and none of a head that is gone", async () => {
    const tenant = await newHead();
    const ledger = getLedger(env.TENANT, tenant.id);
    const batch = async (writer: string, number: number, inputs: number) => ({
      writer,
      number,
      versions: [await counted(tenant, inputs)],
    });
    await ledger.recordCounts(await batch("a", 7, 10));
    await ledger.recordCounts(await batch("a", 7, 10));
    await ledger.recordCounts(await batch("b", 2, 100));
    await ledger.recordCounts(await batch("a", 6, 1_000));
    await ledger.recordCounts(await batch("a", 8, 1));
    expect(await report(1, tenant)).toMatchObject({ predictions: 111 });
    const versions = [await counted(tenant, 5, { sha256: "other" }), await counted(tenant, 5, { version: 9 })];
    await ledger.recordCounts({ writer: "a", number: 9, versions });
    expect(await report(1, tenant)).toMatchObject({ predictions: 111 });
    await call("DELETE", "/v1/heads/support", tenant.key);
    await ledger.recordCounts(await batch("b", 3, 5).catch(() => ({ writer: "b", number: 3, versions })));
    for (const table of ["head_traffic", "traffic_counts", "input_shifts"])
      expect(await inLedger(tenant.id, ({ sql }) => sql.exec(`SELECT * FROM ${table}`).toArray()), table).toEqual([]);
  });

  async function leaseActive({ id }: Owner) {
    const lease = await getLedger(env.TENANT, id).leaseHead("support", null);
    if (!lease.ok) throw new Error(lease.failure.message);
    return lease.value.head;
  }

  /** A request whose counts are written by `recordCounts`, and the work that it leaves. */
  function requestOf({ id }: Owner, recordCounts: (batch: CountBatch) => Promise<unknown>) {
    const namespace = { idFromName: () => null, get: () => ({ recordCounts }) };
    const work: Promise<unknown>[] = [];
    const request: TenantRequest = {
      env: { ...env, TENANT: namespace as unknown as Cloudflare.Env["TENANT"] },
      tenant: id,
      signal: new AbortController().signal,
      waitUntil: (promise) => work.push(promise),
      setLogFields: () => undefined,
    };
    return { request, work };
  }

  test("writes again what it has no answer for, which counts once", async () => {
    const tenant = await newHead();
    const head = await leaseActive(tenant);
    const numbers: number[] = [];
    const { request, work } = requestOf(tenant, async (batch) => {
      numbers.push(batch.number);
      await getLedger(env.TENANT, tenant.id).recordCounts(batch);
      if (numbers.length === 1) throw new Error("The answer is lost.");
    });
    for (let i = 0; i < 3; i++)
      countPredictions(request, head, false, [{ top: { label: 0, score: 0.9 }, scope: 0.4, unknownWords: null }]);
    expect(work).toHaveLength(1);
    await Promise.all(work);
    expect(numbers).toHaveLength(2);
    expect(new Set(numbers).size).toBe(1);
    const counted = await report(1, tenant);
    expect(counted).toMatchObject({ predictions: 3, unknown_words: null });
    expect([counted.scope[8], counted.confidence[18]]).toEqual([3, 3]);
  });

  test("writes what is counted during a write after its own time, however many predictions come", async () => {
    const tenant = await newHead();
    const head = await leaseActive(tenant);
    const batches: CountBatch[] = [];
    const count = () => countPredictions(request, head, false, [{ top: { label: 0, score: 0.9 }, unknownWords: null }]);
    const { request, work } = requestOf(tenant, async (batch) => {
      if (batches.push(batch) < 3) count();
    });
    count();
    for (const written of [1, 2, 3]) {
      await work[written - 1];
      expect(batches).toHaveLength(written);
    }
    expect(work).toHaveLength(3);
    expect(batches.map(({ versions }) => versions.map(({ counts }) => counts.inputs.inputs))).toEqual([[1], [1], [1]]);
  });

  test("writes although the request that was to write has ended", async () => {
    const tenant = await newHead();
    const head = await leaseActive(tenant);
    const counted = [{ top: null, unknownWords: null }];
    const sizes: (number | undefined)[] = [];
    const { request, work } = requestOf(tenant, async ({ versions }) => {
      sizes.push(versions[0]?.counts.inputs.inputs);
    });
    countPredictions({ ...request, env: { ...request.env, COUNT_SECONDS: "20" } }, head, false, counted);
    countPredictions(request, head, false, counted);
    expect(work).toHaveLength(1);
    vi.spyOn(Date, "now").mockReturnValue(Date.now() + 40_000);
    countPredictions(request, head, false, counted);
    expect(work).toHaveLength(2);
    await work[1];
    expect(sizes).toEqual([3]);
  });

  test("keeps counts for 30 days", async () => {
    const tenant = await newHead(1, true);
    await getLedger(env.TENANT, tenant.id).recordCounts({
      writer: "a",
      number: 1,
      versions: [await counted(tenant, 5)],
    });
    const deleteAfter = (days: number) =>
      inLedger(tenant.id, ({ sql }) => {
        deleteOldCounts(sql, Date.now() + days * 86_400_000);
        return ["traffic_counts", "input_shifts", "count_writers"].map(
          (table) => sql.exec(`SELECT * FROM ${table}`).toArray().length,
        );
      });
    expect(await deleteAfter(0)).toEqual([1, 1, 1]);
    expect(await deleteAfter(29)).toEqual([1, 1, 0]);
    expect(await deleteAfter(31)).toEqual([0, 0, 0]);
  });
});

describe("a shift", () => {
  test("of the inputs is told of once, and coverage is not promised until a version has none", async () => {
    const tenant = await newHead(2, true);
    const options = { coverage: 0.9 };
    expect((await predict(texts[0]?.text, tenant, options)).coverage_promised).toBe(true);
    expect(await predict(texts[0]?.text, tenant)).not.toHaveProperty("coverage_promised");
    const unlike = Array.from({ length: 200 }, (_, i) => `qwrtz plonk vrees gnarf ${"zxvb".repeat(1 + (i % 5))}`);
    await predict(unlike, tenant);
    await waitForCounts(1, { shift: { status: "detected" } }, tenant);
    const { shift } = await report(1, tenant);
    expect(shift.moved).toContain("unknown_words");
    expect(shift.inputs).toBe(0);
    const events = (await listEvents(tenant.id)).filter(({ type }) => type === "head.drifting");
    expect(events).toHaveLength(1);
    expect(events[0]?.data).toMatchObject({ id: "support", object: "head", version: 1, reason: "inputs" });
    const moved = events[0]?.data.moved as {
      figure: string;
      psi: number;
      p_value: number;
      before: number;
      after: number;
    }[];
    const words = moved.find(({ figure }) => figure === "unknown_words");
    expect(words?.psi).toBeGreaterThan(0.25);
    expect(words?.p_value).toBeLessThan(0.001);
    expect(words?.before).toBe(0);
    expect(words?.after).toBeGreaterThan(0.9);
    // An isolate learns of it with its next lease.
    endHeadLeases(tenant.id, "support");
    expect((await predict(unlike, tenant, options)).coverage_promised).toBe(false);
    await waitForCounts(1, { predictions: 402 }, tenant);
    expect((await listEvents(tenant.id)).filter(({ type }) => type === "head.drifting")).toHaveLength(1);
    // It tells, and trains nothing.
    expect((await call("GET", "/v1/heads/support/policy", tenant.key)).json).toMatchObject({
      drifting: false,
      retraining: false,
    });
    await call("POST", "/v1/heads/support/promote", tenant.key, { version: 2 });
    expect((await predict(texts[0]?.text, tenant, options)).coverage_promised).toBe(true);
    // Counts of the version before, which come late, change nothing of it.
    expect(await report(2, tenant)).toMatchObject({ shift: { status: "waiting" } });
  });

  test("is none where the inputs are like the examples, and unknown where nothing was held out", async () => {
    const tenant = await newHead(1, true);
    const alike = texts.flatMap(({ text }) => [text, `${text} now`]);
    await predict(alike, tenant);
    await waitForCounts(1, { shift: { status: "none", next_at: 200 } }, tenant);
    expect((await listEvents(tenant.id)).filter(({ type }) => type === "head.drifting")).toEqual([]);
    const body = { name: "blind", examples: texts, evaluation: { method: "none" }, backbone: "text-static-1" };
    expect((await call("POST", "/v1/heads", tenant.key, body)).status).toBe(201);
    const { versions } = (await call("GET", "/v1/heads/blind/traffic/report", tenant.key)).json;
    expect(versions).toMatchObject([{ version: 1, shift: { status: "unknown", next_at: null } }]);
  });
});

describe("shadow versions", () => {
  test("predict after the answer, and are counted and not shown", async () => {
    const tenant = await newHead(3);
    expect(await putAccepted({ shadow: [3, 2] }, tenant)).toEqual({
      object: "head.traffic",
      id: "support",
      active_version: 1,
      versions: [{ version: 1, share: 1 }],
      shadow: [3, 2],
      waiting_version: null,
      updated_at: expect.any(Number),
    });
    const input = texts.map(({ text }) => text).slice(90, 144);
    const answer = await predict(input, tenant);
    expect(answer.model).toBe("support@1");
    expect(answer.data[0]).not.toHaveProperty("version");
    await waitForCounts(2, { predictions: 0, shadow_predictions: 54, shed: 0, shadow: true }, tenant);
    expect((await report(2, tenant)).agreement).toMatchObject({ version: 1, inputs: 54 });
    expect((await report(2, tenant)).agreement.share).toBeGreaterThan(0.9);
    // It does not know the topic of these.
    await waitForCounts(3, { shadow_predictions: 54 }, tenant);
    expect((await report(3, tenant)).agreement.share).toBeLessThan(0.3);
    expect(await report(1, tenant)).toMatchObject({ predictions: 54, agreement: null });
  });

  test("are shed beyond what an isolate does at once", async () => {
    const tenant = await newHead(2);
    await putAccepted({ shadow: [2] }, tenant);
    const input = texts.map(({ text }) => text).slice(0, 130);
    await predict([...input, ...input], tenant);
    await waitForCounts(2, { shadow_predictions: 128, shed: 132 }, tenant);
  });
});

describe("shares", () => {
  test("give the same text the same version, and both their part", async () => {
    await putAccepted({
      versions: [
        { version: 1, share: 0.5 },
        { version: 4, share: 0.5 },
      ],
    });
    const input = texts.map(({ text }) => text);
    const { model, data } = await predict(input);
    const versions: number[] = data.map(({ version }: { version: number }) => version);
    expect(model).toBe(`support@${versions[0]}`);
    expect(data.map(({ index }: { index: number }) => index)).toEqual([...input.keys()]);
    const toFour = versions.filter((version) => version === 4).length;
    expect(Math.abs(toFour - input.length / 2)).toBeLessThan(4 * Math.sqrt(input.length / 4));
    for (const i of [0, 1, 2, 3]) {
      const again = await predict(`  ${input[i]?.toUpperCase()}`);
      expect(again.model).toBe(`support@${versions[i]}`);
      expect(again.data).toMatchObject([{ index: 0, version: versions[i] }]);
    }
    // A version keeps the inputs that it had when its share grows.
    await putAccepted({
      versions: [
        { version: 1, share: 0.8 },
        { version: 4, share: 0.2 },
      ],
    });
    const later = (await predict(input)).data.map(({ version }: { version: number }) => version);
    for (const [i, version] of versions.entries()) if (version === 1) expect(later[i]).toBe(1);
    // One that is named answers all.
    const pinned = await predict(input.slice(0, 3), owner, { version: 2 });
    expect(pinned.model).toBe("support@2");
    expect(pinned.data[0]).not.toHaveProperty("version");
    expectError(
      await call("POST", PREDICT, owner.key, { input: ["a", { embedding: [1] }] }),
      422,
      "modality_mismatch",
      "input[1]",
    );
    await putAccepted({});
  });

  test("end with a promotion; what would have been promoted waits, or stays a version", async () => {
    const tenant = await newHead(2);
    const shares = {
      versions: [
        { version: 1, share: 0.9 },
        { version: 2, share: 0.1 },
      ],
      shadow: [],
    };
    const train = async () => {
      const body = { name: "support", examples: tickets(), backbone: "text-static-1", evaluation: { method: "none" } };
      const trained = await call("POST", "/v1/heads", tenant.key, body);
      expect(trained.status, trained.text).toBe(201);
      return trained.json;
    };
    await putAccepted(shares, tenant);
    expect(await train()).toMatchObject({ version: 3, active_version: 1 });
    expect((await call("GET", TRAFFIC, tenant.key)).json).toMatchObject({ ...shares, waiting_version: 3 });
    await putAccepted({ ...shares, shadow: [3] }, tenant);
    const promoted = await call("POST", "/v1/heads/support/promote", tenant.key, { version: 1 });
    expect(promoted.json).toMatchObject({ active_version: 1 });
    const cleared = { active_version: 1, versions: [{ version: 1, share: 1 }], shadow: [3], waiting_version: null };
    expect((await call("GET", TRAFFIC, tenant.key)).json).toMatchObject(cleared);
    expect((await predict("a", tenant)).data[0]).not.toHaveProperty("version");
    await call("POST", "/v1/heads/support/promote", tenant.key, { version: 1 });
    expect((await call("GET", TRAFFIC, tenant.key)).json).toMatchObject(cleared);
    // Cleared by hand, what waits is promoted; twice is as once.
    await putAccepted({ ...shares, shadow: [3] }, tenant);
    expect(await train()).toMatchObject({ version: 4, active_version: 1 });
    expect(await train()).toMatchObject({ version: 5, active_version: 1 });
    for (let i = 0; i < 2; i++)
      expect(await putAccepted({ versions: [] }, tenant)).toMatchObject({
        active_version: 5,
        versions: [{ version: 5, share: 1 }],
        waiting_version: null,
      });
    // Whoever gives the active version all inputs keeps it.
    await putAccepted(shares, tenant);
    expect(await train()).toMatchObject({ version: 6, active_version: 5 });
    const kept = { active_version: 5, versions: [{ version: 5, share: 1 }], waiting_version: null };
    expect(await putAccepted({ versions: kept.versions }, tenant)).toMatchObject(kept);
    expect(await putAccepted({}, tenant)).toMatchObject(kept);
    const events = (await listEvents(tenant.id)).filter(({ type }) => type === "head.promoted");
    expect(events.map(({ data }) => data.version)).toEqual([1, 5]);
  });
});

test("feedback says how each version does that was trained before it", async () => {
  const tenant = await newTenant();
  await call("POST", "/v1/datasets", tenant.key, { name: "tickets", task: "single_label", modality: "text" });
  await call("POST", "/v1/datasets/tickets/examples", tenant.key, { examples: tickets() });
  const body = { name: "support", dataset: "tickets", evaluation: { method: "none" } };
  for (const promote of [true, false]) await call("POST", "/v1/heads", tenant.key, { ...body, promote });
  await putAccepted({ shadow: [2] }, tenant);
  const examples = [
    { text: "my parcel never came at all", label: "shipping" },
    { text: "I was billed for two of them", label: "billing" },
    { text: tickets()[0]?.text, label: tickets()[0]?.label },
  ];
  const feedback = () => call("POST", "/v1/heads/support/feedback", tenant.key, { examples });
  expect((await feedback()).json).toMatchObject({ judged: 2 });
  expect((await feedback()).json).toMatchObject({ judged: 0 });
  for (const version of [1, 2]) {
    const { feedback: counts } = await report(version, tenant);
    expect(counts).toMatchObject({ judged: 2, accuracy: counts.hits / 2 });
    expect(counts.accuracy_interval).toHaveLength(2);
  }
  await call("POST", "/v1/heads", tenant.key, body);
  expect(await report(3, tenant)).toMatchObject({ feedback: null });
});

test("a regression's versions share and shadow, without what a value has none of", async () => {
  const tenant = await newTenant();
  const examples = Array.from({ length: 60 }, (_, i) => ({
    embedding: [Math.cos(i), Math.sin(i)],
    value: Math.cos(i),
  }));
  for (const promote of [true, false, false])
    await call("POST", "/v1/heads", tenant.key, { name: "support", examples, promote });
  await putAccepted(
    {
      versions: [
        { version: 1, share: 0.5 },
        { version: 2, share: 0.5 },
      ],
      shadow: [3],
    },
    tenant,
  );
  const input = examples.slice(0, 40).map(({ embedding }) => ({ embedding }));
  const { data } = await predict(input, tenant);
  expect(new Set(data.map(({ version }: { version: number }) => version))).toEqual(new Set([1, 2]));
  await waitForCounts(3, { shadow_predictions: 40, mean_confidence: null, labels: [], agreement: null }, tenant);
});

describe("refuses", () => {
  const half = (version: number) => ({ version, share: 0.5 });
  test.each<[string, unknown, number, ErrorCode, string]>([
    [
      "shares that do not add up to 1",
      { versions: [half(1), { version: 2, share: 0.4 }] },
      400,
      "invalid_parameter",
      "versions",
    ],
    ["a share of nothing", { versions: [{ version: 1, share: 0 }] }, 400, "invalid_parameter", "versions[0].share"],
    ["a version twice", { versions: [half(1), half(1)] }, 400, "invalid_parameter", "versions"],
    ["a version that is not there", { versions: [half(1), half(9)] }, 404, "not_found", "versions[1].version"],
    ["a shadow version that is not there", { shadow: [9] }, 404, "not_found", "shadow[0]"],
    ["more than two shadow versions", { shadow: [2, 3, 4] }, 422, "limit_exceeded", "shadow"],
    [
      "a shadow version that answers",
      { versions: [half(1), half(2)], shadow: [2] },
      400,
      "invalid_parameter",
      "shadow[0]",
    ],
    ["the active version as its own shadow", { shadow: [1] }, 400, "invalid_parameter", "shadow[0]"],
    ["other fields", { weights: [] }, 400, "unknown_parameter", "weights"],
  ])("%s", async (_, body, status, code, param) => {
    expectError(await put(body), status, code, param);
    expect((await call("GET", TRAFFIC, owner.key)).json.shadow).toEqual([]);
  });

  test.each([
    ["GET", TRAFFIC, undefined],
    ["PUT", TRAFFIC, { shadow: [2] }],
    ["GET", `${TRAFFIC}/report`, undefined],
  ])("keys without its scope, and another tenant's: %s %s", async (method, path, body) => {
    await expectAuthorization(owner.key, "manage", method, path, body);
    const tenant = await newHead();
    await expectHidden(method, path, body, () => call("DELETE", "/v1/heads/support", tenant.key));
  });
});
