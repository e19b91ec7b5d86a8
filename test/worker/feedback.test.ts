/** Feedback: what heads are taught, and how they had done on it before. */
import { SELF } from "cloudflare:test";
import { beforeAll, describe, expect, test } from "vitest";
import type { Code } from "../../src/core/failure.ts";
import { limits } from "../../src/core/limits.ts";
import { createClient } from "../../src/sdk.ts";
import { type Answer, call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectGuarded, expectHidden, expectRefused } from "./expect.ts";
import { eventsOf, examplesOf, learnHook, posted } from "./inbound.ts";

const FEEDBACK = "/v1/heads/support/feedback";
let key: string;

async function withHead(): Promise<{ id: string; key: string }> {
  const made = await tenantWithTickets();
  const trained = await call("POST", "/v1/heads", made.key, { name: "support", dataset: "tickets" });
  expect(trained.status, trained.text).toBe(201);
  return made;
}

beforeAll(async () => {
  ({ key } = await withHead());
});

const give = (examples: unknown, token = key, headers: Record<string, string> = {}) =>
  call("POST", FEEDBACK, token, { examples }, headers);

async function given(examples: readonly unknown[], token = key): Promise<Answer> {
  const answer = await give(examples, token);
  expect(answer.status, answer.text).toBe(200);
  return answer;
}

test("feedback is learnt, and answered with how the active version had done on it before", async () => {
  const { json } = await given([
    { text: "my parcel never came", label: "shipping" },
    { text: "please refund the double charge on my bill", label: "login", id: "f-1" },
    { text: tickets()[0]?.text, label: "billing" },
    { text: "no label" },
    { text: "another task's", value: 1 },
    "a text alone",
  ]);
  expect(json).toEqual({
    object: "head.feedback",
    id: "support",
    head: "support",
    version: 1,
    added: 2,
    updated: 0,
    unchanged: 1,
    rejected: 3,
    errors: [
      { line: 4, code: "missing_parameter", message: expect.stringContaining("label") },
      { line: 5, code: "task_mismatch", message: expect.stringContaining("value") },
      { line: 6, code: "invalid_parameter", message: expect.stringContaining("example") },
    ],
    // What the head was trained on says nothing of it.
    judged: 2,
    hits: 1,
    policy: {
      object: "head.policy",
      id: "support",
      retrain_after_examples: null,
      retrain_on_drift: false,
      promote: "if_not_worse",
      new_examples: 2,
      retraining: false,
      recent: { judged: 2, hits: 1 },
      drifting: false,
      last_failure: null,
    },
  });
  expect((await examplesOf(key)).slice(-2)).toEqual([
    { id: expect.stringMatching(/^ex_[0-9a-f]{32}$/), text: "my parcel never came", label: "shipping" },
    { id: "f-1", text: "please refund the double charge on my bill", label: "login" },
  ]);
});

test("the newer label of an input takes the older one's place, wherever that came from", async () => {
  const own = await withHead();
  const text = "I cannot log in";
  // An import may give one input several labels.
  await call("POST", "/v1/datasets/tickets/examples", own.key, {
    examples: [
      { text, label: "billing" },
      { text, label: "shipping", id: "mine" },
    ],
  });
  const count = (await examplesOf(own.key)).length;
  expect((await given([{ text, label: "shipping" }], own.key)).json).toMatchObject({ updated: 1, added: 0, judged: 0 });
  expect((await examplesOf(own.key)).filter((one) => one.text === text)).toMatchObject([{ label: "shipping" }]);
  expect(await examplesOf(own.key)).toHaveLength(count - 2);
  const twice = await given(
    [
      { text, label: "billing" },
      { text, label: "login" },
    ],
    own.key,
  );
  expect(twice.json).toMatchObject({ updated: 2, unchanged: 0 });
  expect((await given([{ text, label: "login" }], own.key)).json).toMatchObject({ updated: 0, unchanged: 1 });
  // Another spelling is another input.
  expect((await given([{ text: text.toUpperCase(), label: "billing" }], own.key)).json).toMatchObject({ added: 1 });
});

test("sent again with the same Idempotency-Key it is learnt once", async () => {
  const own = await withHead();
  const examples = [{ text: "once alone", label: "login" }];
  const first = await give(examples, own.key, { "idempotency-key": "f" });
  const again = await give(examples, own.key, { "idempotency-key": "f" });
  expect(again.json).toEqual(first.json);
  expect(again.headers.get("idempotent-replayed")).toBe("true");
  // Without a key it is learnt again, which changes nothing.
  expect((await given(examples, own.key)).json).toMatchObject({ added: 0, unchanged: 1, judged: 0 });
});

test("it takes a key that may train, of the head's own tenant", async () => {
  const body = { examples: [{ text: "a", label: "login" }] };
  await expectGuarded(key, "train", "POST", FEEDBACK, body);
  const other = await withHead();
  await expectHidden("POST", FEEDBACK, body, () => call("DELETE", "/v1/heads/support", other.key));
  expectRefused(await give(body.examples, other.key), 404, "not_found");
});

test.each<[string, unknown, number, Code, string | null]>([
  ["no examples", {}, 400, "missing_parameter", "examples"],
  ["an empty list", { examples: [] }, 400, "invalid_parameter", "examples"],
  ["no list", { examples: "text" }, 400, "invalid_parameter", "examples"],
  [
    "more than it may",
    { examples: Array(limits.examples_per_feedback + 1).fill({}) },
    422,
    "limit_exceeded",
    "examples",
  ],
  ["what is not known", { examples: [{}], more: 1 }, 400, "unknown_parameter", "more"],
  ["no JSON", "{", 400, "invalid_json", null],
])("with %s it is refused", async (_, body, status, code, param) => {
  const headers = { "content-type": "application/json" };
  expectRefused(await call("POST", FEEDBACK, key, body, headers), status, code, param);
});

test("a label that is new is learnt, and was missed", async () => {
  const own = await withHead();
  const { json } = await given([{ text: "do you speak Latin", label: "languages" }], own.key);
  expect(json).toMatchObject({ added: 1, judged: 1, hits: 0 });
  expect((await call("GET", "/v1/datasets/tickets", own.key)).json.labels).toMatchObject({ languages: 1 });
});

describe("a head", () => {
  test("without a data set learns nothing", async () => {
    const own = await newTenant();
    await call("POST", "/v1/heads", own.key, { name: "support", examples: tickets() });
    const refused = await give([{ text: "a", label: "login" }], own.key);
    expectRefused(refused, 422, "not_available");
  });

  test("whose data set is gone, or another by its name, learns nothing", async () => {
    const own = await withHead();
    for (const task of ["regression", "single_label"]) {
      await call("DELETE", "/v1/datasets/tickets", own.key);
      expectRefused(await give([{ text: "a", label: "login" }], own.key), 422, "not_available");
      await call("POST", "/v1/datasets", own.key, { name: "tickets", task, modality: "text" });
      expectRefused(await give([{ text: "a", label: "login" }], own.key), 422, "not_available");
    }
    await call("POST", "/v1/datasets/tickets/examples", own.key, { examples: tickets() });
    await call("POST", "/v1/heads", own.key, { name: "support", dataset: "tickets" });
    expect((await given([{ text: "a", label: "login" }], own.key)).json.policy.new_examples).toBe(1);
  });

  test("without an active version learns nothing", async () => {
    const own = await tenantWithTickets();
    await call("POST", "/v1/heads", own.key, { name: "support", dataset: "tickets", promote: false });
    expectRefused(await give([{ text: "a", label: "login" }], own.key), 404, "not_found");
  });

  test("learns into the data set of its active version, not of a newer one", async () => {
    const own = await withHead();
    await call("POST", "/v1/datasets", own.key, { name: "newer", task: "single_label", modality: "text" });
    await call("POST", "/v1/datasets/newer/examples", own.key, { examples: tickets() });
    await call("POST", "/v1/heads", own.key, { name: "support", dataset: "newer", promote: false });
    const { json } = await given([{ text: "a", label: "login" }], own.key);
    expect(json).toMatchObject({ version: 1, policy: { new_examples: 1 } });
    expect((await call("GET", "/v1/datasets/newer", own.key)).json.examples).toBe(18);
  });

  test.each([
    [
      "any number of labels",
      { task: "multi_label", modality: "text" },
      tickets().map(({ text, label }, i) => ({ text, labels: i % 2 ? [label] : [label, "even"] })),
      { text: "something that is not there yet", labels: [] },
      1,
    ],
    [
      "values",
      { task: "regression", modality: "text" },
      tickets().map(({ text }, i) => ({ text, value: i })),
      { text: "new", value: 3 },
      0,
    ],
    [
      "embeddings",
      { task: "single_label", modality: "embedding", dimensions: 2 },
      Array.from({ length: 20 }, (_, i) => ({ embedding: [i % 2 ? 1 : -1, i / 20], label: i % 2 ? "odd" : "even" })),
      { embedding: [1, 2], label: "odd" },
      1,
    ],
  ])("of %s learns", async (_, dataset, examples, feedback, judged) => {
    const own = await newTenant();
    await call("POST", "/v1/datasets", own.key, { name: "set", ...dataset });
    await call("POST", "/v1/datasets/set/examples", own.key, { examples });
    const trained = await call("POST", "/v1/heads", own.key, { name: "support", dataset: "set" });
    expect(trained.status, trained.text).toBe(201);
    const { json } = await given([feedback], own.key);
    expect(json).toMatchObject({ added: 1, rejected: 0, judged });
    const { text, embedding } = feedback as { text?: string; embedding?: number[] };
    const input = text ?? { embedding };
    const [{ label, labels }] = (await call("POST", "/v1/heads/support/predict", own.key, { input })).json.data;
    const right = "labels" in feedback ? labels.length === 0 : "label" in feedback && label === feedback.label;
    expect(json.hits).toBe(judged === 1 && right ? 1 : 0);
  });

  test("is not judged on what is out of scope", async () => {
    const own = await newTenant();
    await call("POST", "/v1/datasets", own.key, {
      name: "set",
      task: "single_label",
      modality: "text",
      out_of_scope_label: "other",
    });
    await call("POST", "/v1/datasets/set/examples", own.key, { examples: tickets() });
    await call("POST", "/v1/heads", own.key, { name: "support", dataset: "set" });
    expect((await given([{ text: "what is the capital of France", label: "other" }], own.key)).json).toMatchObject({
      added: 1,
      judged: 0,
    });
  });
});

describe("drift", () => {
  /** Texts that the head is sure of, labelled as they are not. */
  const wrong = (count: number, of = "parcel") =>
    Array.from({ length: count }, (_, i) => ({ text: `where is my ${of} number ${i}`, label: "billing" }));

  test("is told of once, with what shows it", async () => {
    const own = await withHead();
    await given(wrong(19), own.key);
    expect(await eventsOf(own.id, "head.drifting")).toEqual([]);
    expect((await given(wrong(1, "shipment"), own.key)).json.policy).toMatchObject({
      drifting: true,
      recent: { judged: 20 },
    });
    const [event, ...others] = await eventsOf(own.id, "head.drifting");
    expect(others).toEqual([]);
    const { evaluation } = (await call("GET", "/v1/heads/support", own.key)).json;
    expect(event?.data).toEqual({
      id: "support",
      object: "head",
      version: 1,
      judged: 20,
      accuracy: expect.any(Number),
      held_out_accuracy: evaluation.accuracy,
      p_value: expect.any(Number),
    });
    expect(event?.data.accuracy).toBeLessThan(0.5);
    expect(event?.data.p_value).toBeLessThan(0.01);
    await given(wrong(30, "order"), own.key);
    expect(await eventsOf(own.id, "head.drifting")).toHaveLength(1);
  });

  test("is not seen in the same examples again, nor in what the head gets right", async () => {
    const own = await withHead();
    for (let i = 0; i < 5; i++) await given(wrong(10), own.key);
    const right = Array.from({ length: 90 }, (_, i) => ({
      text: `where is my parcel, number ${i}`,
      label: "shipping",
    }));
    await given(right, own.key);
    const { json } = await call("GET", "/v1/heads/support/policy", own.key);
    expect(json).toMatchObject({ drifting: false, recent: { judged: 100 } });
    expect(await eventsOf(own.id, "head.drifting")).toEqual([]);
    // Of all but the last hundred nothing is kept.
    await given([{ text: "track my parcel", label: "shipping" }], own.key);
    expect((await call("GET", "/v1/heads/support/policy", own.key)).json.recent.judged).toBe(100);
  });

  test("is seen by hooks that learn, of heads with a policy alone", async () => {
    const own = await withHead();
    await call("POST", "/v1/heads", own.key, { name: "second", dataset: "tickets" });
    await call("PUT", "/v1/heads/second/policy", own.key, {});
    const hook = await learnHook(own.key);
    for (const message of wrong(20)) await posted(hook, message);
    expect((await eventsOf(own.id, "head.drifting")).map(({ data }) => data.id)).toEqual(["second"]);
    expect((await call("GET", "/v1/heads/support/policy", own.key)).json.recent.judged).toBe(0);
  });

  test("begins anew with each active version", async () => {
    const own = await withHead();
    await given(wrong(20), own.key);
    await call("POST", "/v1/heads", own.key, { name: "support", dataset: "tickets" });
    const { json } = await call("GET", "/v1/heads/support/policy", own.key);
    expect(json).toMatchObject({ drifting: false, recent: { judged: 0, hits: 0 }, new_examples: 0 });
  });
});

test("the client gives feedback, reads and sets policies, and makes hooks", async () => {
  const client = createClient({
    baseUrl: "http://graft.test",
    key,
    fetch: ((url: URL, init: RequestInit) => SELF.fetch(url, init)) as typeof fetch,
  });
  expect(await client.heads.feedback("support", [{ text: "by the client", label: "login" }])).toMatchObject({
    added: 1,
  });
  expect(await client.heads.policy("support", { promote: "never" })).toMatchObject({ promote: "never" });
  expect(await client.heads.policy("support")).toMatchObject({ promote: "never", retrain_after_examples: null });
  const hook = await client.inboundHooks.create({
    name: "by-client",
    action: "learn",
    dataset: "tickets",
    fields: { text: "/text", label: "/label" },
    verify: { scheme: "none" },
  });
  expect((await client.inboundHooks.get(hook.id)).name).toBe("by-client");
  expect((await client.inboundHooks.list()).data.map(({ id }) => id)).toContain(hook.id);
  expect((await client.inboundHooks.delete(hook.id)).deleted).toBe(true);
});
