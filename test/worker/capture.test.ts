/** The queue of live inputs: what is captured and when, what labels make of it, and that deletions reach it. */
import { runDurableObjectAlarm } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test, vi } from "vitest";
import type { CapturedInput } from "../../src/api/capture.ts";
import { limits } from "../../src/core/limits.ts";
import { shortHash } from "../../src/lib/hash.ts";
import { endHeadLeases } from "../../src/serving/active-heads.ts";
import type { NewCapturedInput } from "../../src/tenant/heads/capture.ts";
import { deleteExpiredInputs } from "../../src/tenant/heads/capture.ts";
import { getLedger } from "../../src/tenant/tenant.ts";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { createKey, expectAuthorization, expectError, expectHidden } from "./assertions.ts";
import { inLedger } from "./fake-batch-endpoint.ts";
import { newHook, postAccepted } from "./inbound-hooks.ts";

const HEAD = "/v1/heads/support";
const ALL = { sampling_rate: 1 };
interface Owner {
  readonly id: string;
  readonly key: string;
}

async function newOwner(): Promise<Owner> {
  const owner = await tenantWithTickets();
  const body = { name: "support", dataset: "tickets", backbone: "text-static-1", evaluation: { method: "none" } };
  const trained = await call("POST", "/v1/heads", owner.key, body);
  expect(trained.status, trained.text).toBe(201);
  return owner;
}

async function accept(method: string, path: string, { key }: Owner, body?: unknown) {
  const answer = await call(method, path, key, body);
  expect(answer.status, answer.text).toBeLessThan(300);
  return answer.json;
}
const setCapture = (owner: Owner, capture: unknown) => accept("PUT", `${HEAD}/capture`, owner, capture);
const predict = (owner: Owner, input: unknown, options: object = {}) =>
  accept("POST", `${HEAD}/predict`, owner, { input, ...options });
const list = async (owner: Owner, query = "?limit=100"): Promise<CapturedInput[]> =>
  (await accept("GET", `${HEAD}/captured${query}`, owner)).data;
const texts = async (owner: Owner) => (await list(owner)).map(({ text }) => text);
/** Waits until the queue has these texts, newest first. */
const waitFor = (owner: Owner, ...expected: string[]) =>
  vi.waitFor(async () => expect(await texts(owner)).toEqual(expected), { timeout: 15_000, interval: 30 });
const label = (owner: Owner, items: readonly object[], headers = {}) =>
  call("POST", `${HEAD}/captured/label`, owner.key, { items }, headers);

/** An input as an isolate writes it. */
function written(text: string, predictedAt = Date.now()): NewCapturedInput {
  const hash = shortHash(text);
  const prediction = { label: "billing", score: 0.5 };
  return { input: text, inputHash: hash, groupHash: hash, version: 1, prediction, predictedAt };
}
const write = ({ id }: Owner, ...inputs: NewCapturedInput[]) =>
  getLedger(env.TENANT, id).recordCaptured("support", inputs);

let owner: Owner;
beforeAll(async () => {
  owner = await newOwner();
});

describe("what is captured", () => {
  test("nothing unless it is on, nothing from before, and nothing after", async () => {
    const off = { object: "head.capture", id: "support", enabled: false, sampling_rate: null, max_score: null };
    expect(await accept("GET", `${HEAD}/capture`, owner)).toMatchObject({ ...off, inputs: 0, updated_at: null });
    await predict(owner, "before it is on");
    const set = await setCapture(owner, ALL);
    expect(set).toMatchObject({ enabled: true, sampling_rate: 1, max_score: null, retention_days: 30 });
    await predict(owner, ["refund the parcel", { text: "a lost login" }, " Refund the  PARCEL"]);
    await predict(owner, "refund the parcel");
    await waitFor(owner, "a lost login", "refund the parcel");
    await setCapture(owner, null);
    await predict(owner, "after it is off");
    // What an isolate writes that has not heard of it, also once it is on again.
    await write(owner, written("late"));
    const late = written("late as well");
    await setCapture(owner, ALL);
    await write(owner, { ...late, predictedAt: late.predictedAt - 1_000 }, written("in time"));
    await waitFor(owner, "in time", "a lost login", "refund the parcel");
    const { inputs, bytes } = await accept("GET", `${HEAD}/capture`, owner);
    expect(inputs).toBe(3);
    expect(bytes).toBeGreaterThan(600);
  });

  test("shows what was predicted, when, and until when it is kept", async () => {
    const [, login] = await list(owner);
    const answered = (await predict(owner, "a lost login")).data[0];
    expect(login).toMatchObject({ object: "captured_input", head: "support", version: 1, text: "a lost login" });
    expect(login?.prediction.label).toBe(answered.label);
    expect(login?.prediction.score).toBeCloseTo(answered.score, 6);
    expect((login?.expires_at ?? 0) - (login?.created_at ?? 0)).toBe(30 * 86_400);
    const [newest] = await list(owner, "?limit=1");
    expect(await list(owner, `?limit=1&after=${newest?.id}`)).toEqual([login]);
    expectError(await call("GET", `${HEAD}/captured?after=cap_999`, owner.key), 400, "invalid_parameter", "after");
  });

  test("a share of the different inputs, and those of a low score", async () => {
    const tenant = await newOwner();
    await setCapture(tenant, { sampling_rate: 0.25 });
    await predict(
      tenant,
      Array.from({ length: 200 }, (_, i) => `ticket ${i}`),
    );
    await vi.waitUntil(async () => (await list(tenant)).length > 0, { timeout: 15_000, interval: 30 });
    const share = await texts(tenant);
    expect(share.length).toBeGreaterThan(25);
    expect(share.length).toBeLessThan(75);
    await accept("POST", `${HEAD}/captured/delete`, tenant, { contains: "ticket" });
    await setCapture(tenant, null);
    const inputs = ["refund a lost parcel", "log in to my invoice", "track the password"];
    const { data } = await predict(tenant, inputs);
    const scores: number[] = data.map(({ score }: { score: number }) => score);
    const largest = Math.max(...scores);
    await setCapture(tenant, { sampling_rate: 0, max_score: largest });
    await predict(tenant, inputs);
    const low = inputs.filter((_, i) => (scores[i] as number) < largest);
    expect(low).toHaveLength(2);
    await waitFor(tenant, ...low.toReversed());
  });

  test("what inbound hooks predict; not what names a version, nor what is an example", async () => {
    const tenant = await newOwner();
    await setCapture(tenant, ALL);
    await predict(tenant, "names a version", { version: 1 });
    await predict(tenant, "I was charged twice");
    await postAccepted(await newHook(tenant.key), { text: "by a hook" });
    await waitFor(tenant, "by a hook");
  });

  test("once, however often it is written, and no more than the limits: the oldest go", async () => {
    const tenant = await newOwner();
    await setCapture(tenant, ALL);
    const first = written("first");
    await write(tenant, first, written("second"));
    await write(tenant, first, written("second"));
    expect(await texts(tenant)).toEqual(["second", "first"]);
    await inLedger(tenant.id, ({ sql }) =>
      sql.exec(
        `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
         INSERT INTO captured_inputs (head, version, group_hash, input, prediction, bytes, created_at, expires_at)
         SELECT 1, 1, 'hash ' || i, 'text ' || i, '{}', 300, 0, 1e12 FROM n`,
        limits.captured_inputs_per_head - 1,
      ),
    );
    await write(tenant, written("third"));
    const shown = await accept("GET", `${HEAD}/capture`, tenant);
    expect(shown.inputs).toBe(limits.captured_inputs_per_head);
    await write(tenant, { ...written("x".repeat(32_000)), input: "x".repeat(32_000) });
    await inLedger(tenant.id, ({ sql }) => sql.exec("UPDATE captured_inputs SET bytes = 300000"));
    await write(tenant, written("last"));
    const { inputs, bytes } = await accept("GET", `${HEAD}/capture`, tenant);
    expect(inputs).toBe(1 + Math.floor(limits.captured_bytes_per_head / 300_000));
    expect(bytes).toBeLessThanOrEqual(limits.captured_bytes_per_head);
    expect((await texts(tenant))[0]).toBe("last");
  });

  test("inputs are there for their retention, and a shorter one holds at once", async () => {
    const tenant = await newOwner();
    await setCapture(tenant, { ...ALL, retention_days: 10 });
    const now = Date.now();
    await inLedger(tenant.id, ({ sql }) =>
      sql.exec("UPDATE head_capture SET setting = json_set(setting, '$.takenFrom', 0)"),
    );
    const daysAgo = (days: number) => written(`${days} days ago`, now - days * 86_400_000);
    await write(tenant, daysAgo(11), daysAgo(5), daysAgo(1));
    expect(await texts(tenant)).toEqual(["1 days ago", "5 days ago"]);
    await setCapture(tenant, { ...ALL, retention_days: 3 });
    expect(await texts(tenant)).toEqual(["1 days ago"]);
    const stored = () => inLedger(tenant.id, ({ sql }) => sql.exec("SELECT input FROM captured_inputs").toArray());
    await vi.waitFor(async () => {
      await runDurableObjectAlarm(env.TENANT.get(env.TENANT.idFromName(tenant.id)));
      expect(await stored()).toEqual([{ input: "1 days ago" }]);
    });
    const next = await inLedger(tenant.id, ({ sql }) => deleteExpiredInputs(sql, now));
    expect(next).toBe(1_000 * (Math.floor(now / 1_000) + 2 * 86_400));
    expect(await inLedger(tenant.id, ({ sql }) => deleteExpiredInputs(sql, next ?? 0))).toBeNull();
    expect(await stored()).toEqual([]);
  });
});

describe("labels", () => {
  test("make examples of captured inputs in one step, each once", async () => {
    const tenant = await newOwner();
    await setCapture(tenant, ALL);
    await write(tenant, written("pay the parcel"), written("log in twice"), written("stays"));
    const [, login, pay] = await list(tenant);
    const headers = { "idempotency-key": "labels" };
    const items = [
      { id: pay?.id, label: "billing" },
      { id: login?.id, label: "a new one" },
      { id: "cap_999", label: "billing" },
      { id: "nonsense", label: "billing" },
    ];
    const answer = await label(tenant, items, headers);
    expect(answer.json).toMatchObject({ object: "head.feedback", head: "support", version: 1, added: 2, rejected: 2 });
    expect(answer.json).toMatchObject({ judged: 0, hits: 0, policy: { new_examples: 2 } });
    expect(answer.json.errors).toMatchObject([
      { line: 3, code: "not_found" },
      { line: 4, code: "not_found" },
    ]);
    expect((await label(tenant, items, headers)).json).toEqual(answer.json);
    expect((await label(tenant, items)).json).toMatchObject({ added: 0, rejected: 4 });
    expect(await texts(tenant)).toEqual(["stays"]);
    const { labels } = await accept("GET", "/v1/datasets/tickets", tenant);
    expect([labels["a new one"], labels.billing]).toEqual([1, 7]);
    // Now that it is an example, it is not asked again.
    await write(tenant, written("log in twice"));
    expect(await texts(tenant)).toEqual(["stays"]);
  });

  test("are refused where they do not fit, and where an input was deleted meanwhile", async () => {
    const tenant = await newOwner();
    await setCapture(tenant, ALL);
    await write(tenant, written("one"), written("two"));
    const [two, one] = await list(tenant);
    const misfit = await label(tenant, [{ id: one?.id }, { id: one?.id, value: 1 }, { id: two?.id, labels: ["a"] }]);
    const codes = misfit.json.errors.map(({ code }: { code: string }) => code);
    expect(codes).toEqual(["missing_parameter", "task_mismatch", "task_mismatch"]);
    const ids = [one?.id ?? "", two?.id ?? ""];
    const ledger = getLedger(env.TENANT, tenant.id);
    const target = await ledger.readLabellingTarget("support", ids);
    if (!target.ok) throw new Error(target.failure.message);
    await accept("POST", `${HEAD}/captured/delete`, tenant, { ids: [two?.id] });
    const batch = { ...target.value, examples: [], rejections: { rejected: 0, errors: [] } };
    expect(await ledger.labelCaptured(null, "support", ids, batch)).toMatchObject({
      ok: false,
      failure: { code: "dataset_changed" },
    });
    expect(await texts(tenant)).toEqual(["one"]);
  });

  test("take embeddings, and need a dataset", async () => {
    const tenant = await newTenant();
    const examples = [0, 1, 2, 3].map((i) => ({ embedding: [i % 2, 1 - (i % 2)], label: i % 2 ? "a" : "b" }));
    await accept("POST", "/v1/heads", tenant, { name: "support", examples, evaluation: { method: "none" } });
    await setCapture(tenant, ALL);
    await predict(tenant, { embedding: [0.5, 0.25] });
    await vi.waitUntil(async () => (await list(tenant)).length === 1, { timeout: 15_000, interval: 30 });
    const [captured] = await list(tenant);
    expect(captured?.embedding).toEqual([0.5, 0.25]);
    expectError(await label(tenant, [{ id: captured?.id, label: "a" }]), 422, "not_available");
    expect(await accept("POST", `${HEAD}/captured/delete`, tenant, { contains: "5" })).toMatchObject({ deleted: 0 });
  });
});

describe("a deletion", () => {
  const remembered = ({ id }: Owner) =>
    inLedger(id, ({ sql }) => sql.exec("SELECT * FROM captured_inputs, head_capture").toArray());

  test("of a person's texts reaches the queues, and what isolates have not written yet", async () => {
    const tenant = await newOwner();
    await setCapture(tenant, ALL);
    const early = written("anna again");
    await write(tenant, written("anna cannot log in"), written("ben cannot log in"), written("cleo cannot log in"));
    const deletion = (filter: object) => accept("POST", "/v1/datasets/tickets/examples/delete", tenant, filter);
    await deletion({ contains: "anna", dry_run: true });
    expect(await texts(tenant)).toHaveLength(3);
    expect(await deletion({ contains: "anna" })).toMatchObject({ deleted: 0 });
    expect(await texts(tenant)).toEqual(["cleo cannot log in", "ben cannot log in"]);
    await write(tenant, { ...early, predictedAt: early.predictedAt - 1_000 });
    expect(await texts(tenant)).toHaveLength(2);
    // An example of the same input is deleted by its id.
    const add = (id: string, text: string) => ({ examples: [{ id, text, label: "login" }] });
    await accept("POST", "/v1/datasets/tickets/examples", tenant, add("b", "Ben cannot  log in"));
    await accept("POST", "/v1/datasets/tickets/examples", tenant, add("c", "cleo cannot log in"));
    await inLedger(tenant.id, ({ sql }) =>
      sql.exec(
        "UPDATE captured_inputs SET group_hash = (SELECT group_hash FROM examples WHERE id = 'b') WHERE input LIKE 'ben%'",
      ),
    );
    await deletion({ ids: ["b"] });
    expect(await texts(tenant)).toEqual(["cleo cannot log in"]);
    await accept("DELETE", "/v1/datasets/tickets/examples/c", tenant);
    expect(await texts(tenant)).toEqual([]);
  });

  test("of the dataset or the head ends the capture, and deletes the queue", async () => {
    for (const path of ["/v1/datasets/tickets", HEAD]) {
      const tenant = await newOwner();
      await setCapture(tenant, ALL);
      await write(tenant, written("one"));
      expect(await remembered(tenant)).toHaveLength(1);
      await accept("DELETE", path, tenant);
      await write(tenant, written("late"));
      expect(await remembered(tenant), path).toEqual([]);
      expect(await inLedger(tenant.id, ({ sql }) => sql.exec("SELECT * FROM captured_inputs").toArray())).toEqual([]);
    }
  });

  test("by ids or a part of the text", async () => {
    await write(owner, written("wrong id"), written("wrong text"));
    const path = `${HEAD}/captured/delete`;
    const [, byId] = await list(owner);
    const ids = [byId?.id, "cap_999", "x"];
    expect(await accept("POST", path, owner, { ids })).toMatchObject({ object: "head.captured_deletion", deleted: 1 });
    expect(await accept("POST", path, owner, { contains: "wrong" })).toMatchObject({ id: "support", deleted: 1 });
    expectError(await call("POST", path, owner.key, {}), 422, "invalid_parameter");
    expectError(await call("POST", path, owner.key, { ids: ["a"], contains: "b" }), 422, "invalid_parameter");
  });
});

test("nothing of an input is in an event", async () => {
  const stored = await inLedger(owner.id, ({ sql }) => sql.exec("SELECT data FROM events").toArray());
  expect(stored.length).toBeGreaterThan(0);
  expect(JSON.stringify(stored)).not.toContain("parcel");
});

describe("the routes", () => {
  test("refuse what is not a setting", async () => {
    const put = (body: unknown) => call("PUT", `${HEAD}/capture`, owner.key, body);
    expectError(await put({}), 400, "missing_parameter", "sampling_rate");
    expectError(await put({ sampling_rate: 2 }), 400, "invalid_parameter", "sampling_rate");
    expectError(await put({ ...ALL, max_score: 0 }), 400, "invalid_parameter", "max_score");
    expectError(await put({ ...ALL, retention_days: 0 }), 400, "invalid_parameter", "retention_days");
    expectError(await put({ ...ALL, other: 1 }), 400, "unknown_parameter", "other");
    expectError(await call("PUT", "/v1/heads/absent/capture", owner.key, ALL), 404, "not_found");
    const values = { name: "price", examples: [1, 2, 3].map((value) => ({ text: `costs ${value}`, value })) };
    await accept("POST", "/v1/heads", owner, { ...values, backbone: "text-static-1", evaluation: { method: "none" } });
    const body = { ...ALL, max_score: 0.5 };
    expectError(await call("PUT", "/v1/heads/price/capture", owner.key, body), 422, "task_mismatch", "max_score");
    expectError(await label(owner, []), 400, "invalid_parameter", "items");
  });

  test("take their scopes, and another tenant's key finds nothing", async () => {
    const tenant = await newOwner();
    const routes = [
      ["manage", "GET", "capture", undefined],
      ["manage", "PUT", "capture", null],
      ["train", "GET", "captured", undefined],
      ["train", "POST", "captured/label", { items: [{ id: "cap_1", label: "a" }] }],
      ["train", "POST", "captured/delete", { ids: ["cap_1"] }],
    ] as const;
    for (const [scope, method, path, body] of routes)
      await expectAuthorization(tenant.key, scope, method, `${HEAD}/${path}`, body);
    expect((await call("GET", `${HEAD}/captured`, await createKey(tenant.key, "train"))).status).toBe(200);
    await expectHidden("GET", `${HEAD}/captured`, undefined, () => call("DELETE", HEAD, tenant.key));
    endHeadLeases(tenant.id, "support");
    for (const [, method, path, body] of routes)
      expectError(await call(method, `${HEAD}/${path}`, tenant.key, body), 404, "not_found");
  });
});
