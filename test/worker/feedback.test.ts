/** Feedback: what heads are taught, and how they had done on it before. */
import { SELF } from "cloudflare:test";
import { beforeAll, describe, expect, test } from "vitest";
import type { ErrorCode } from "../../src/core/failure.ts";
import { limits } from "../../src/core/limits.ts";
import { createClient } from "../../src/sdk/client.ts";
import { type ApiResponse, call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";
import { listEvents, listExamples, newLearnHook, postAccepted } from "./inbound-hooks.ts";

const FEEDBACK = "/v1/heads/support/feedback";
let key: string;

async function newTenantWithHead(): Promise<{ id: string; key: string }> {
  const tenant = await tenantWithTickets();
  const trained = await call("POST", "/v1/heads", tenant.key, { name: "support", dataset: "tickets" });
  expect(trained.status, trained.text).toBe(201);
  return tenant;
}

beforeAll(async () => {
  ({ key } = await newTenantWithHead());
});

const postFeedback = (examples: unknown, token = key, headers: Record<string, string> = {}) =>
  call("POST", FEEDBACK, token, { examples }, headers);

async function postAcceptedFeedback(examples: readonly unknown[], token = key): Promise<ApiResponse> {
  const answer = await postFeedback(examples, token);
  expect(answer.status, answer.text).toBe(200);
  return answer;
}

test("feedback is learnt, and answered with how the active version had done on it before", async () => {
  const { json } = await postAcceptedFeedback([
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
      test_dataset: null,
      new_examples: 2,
      retraining: false,
      recent: { judged: 2, hits: 1 },
      drifting: false,
      last_failure: null,
    },
  });
  expect((await listExamples(key)).slice(-2)).toEqual([
    { id: expect.stringMatching(/^ex_[0-9a-f]{32}$/), text: "my parcel never came", label: "shipping" },
    { id: "f-1", text: "please refund the double charge on my bill", label: "login" },
  ]);
});

test("the newer label of an input takes the older one's place, wherever that came from", async () => {
  const ownTenant = await newTenantWithHead();
  const text = "I cannot log in";
  // An import may give one input several labels.
  await call("POST", "/v1/datasets/tickets/examples", ownTenant.key, {
    examples: [
      { text, label: "billing" },
      { text, label: "shipping", id: "mine" },
    ],
  });
  const count = (await listExamples(ownTenant.key)).length;
  expect((await postAcceptedFeedback([{ text, label: "shipping" }], ownTenant.key)).json).toMatchObject({
    updated: 1,
    added: 0,
    judged: 0,
  });
  expect((await listExamples(ownTenant.key)).filter((example) => example.text === text)).toMatchObject([
    { label: "shipping" },
  ]);
  expect(await listExamples(ownTenant.key)).toHaveLength(count - 2);
  const duplicates = await postAcceptedFeedback(
    [
      { text, label: "billing" },
      { text, label: "login" },
    ],
    ownTenant.key,
  );
  expect(duplicates.json).toMatchObject({ updated: 2, unchanged: 0 });
  expect((await postAcceptedFeedback([{ text, label: "login" }], ownTenant.key)).json).toMatchObject({
    updated: 0,
    unchanged: 1,
  });
  // Another spelling is another input.
  expect(
    (await postAcceptedFeedback([{ text: text.toUpperCase(), label: "billing" }], ownTenant.key)).json,
  ).toMatchObject({ added: 1 });
});

test("sent again with the same Idempotency-Key it is learnt once", async () => {
  const ownTenant = await newTenantWithHead();
  const examples = [{ text: "once alone", label: "login" }];
  const first = await postFeedback(examples, ownTenant.key, { "idempotency-key": "f" });
  const retryResponse = await postFeedback(examples, ownTenant.key, { "idempotency-key": "f" });
  expect(retryResponse.json).toEqual(first.json);
  expect(retryResponse.headers.get("idempotent-replayed")).toBe("true");
  // Without a key it is learnt again, which changes nothing.
  expect((await postAcceptedFeedback(examples, ownTenant.key)).json).toMatchObject({
    added: 0,
    unchanged: 1,
    judged: 0,
  });
});

test("it takes a key that may train, of the head's own tenant", async () => {
  const body = { examples: [{ text: "a", label: "login" }] };
  await expectAuthorization(key, "train", "POST", FEEDBACK, body);
  const other = await newTenantWithHead();
  await expectHidden("POST", FEEDBACK, body, () => call("DELETE", "/v1/heads/support", other.key));
  expectError(await postFeedback(body.examples, other.key), 404, "not_found");
});

test.each<[string, unknown, number, ErrorCode, string | null]>([
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
  expectError(await call("POST", FEEDBACK, key, body, headers), status, code, param);
});

test("a label that is new is learnt, and was missed", async () => {
  const ownTenant = await newTenantWithHead();
  const { json } = await postAcceptedFeedback([{ text: "do you speak Latin", label: "languages" }], ownTenant.key);
  expect(json).toMatchObject({ added: 1, judged: 1, hits: 0 });
  expect((await call("GET", "/v1/datasets/tickets", ownTenant.key)).json.labels).toMatchObject({ languages: 1 });
});

describe("a head", () => {
  test("without a data set learns nothing", async () => {
    const ownTenant = await newTenant();
    await call("POST", "/v1/heads", ownTenant.key, { name: "support", examples: tickets() });
    const refused = await postFeedback([{ text: "a", label: "login" }], ownTenant.key);
    expectError(refused, 422, "not_available");
  });

  test("whose data set is gone, or another by its name, learns nothing", async () => {
    const ownTenant = await newTenantWithHead();
    for (const task of ["regression", "single_label"]) {
      await call("DELETE", "/v1/datasets/tickets", ownTenant.key);
      expectError(await postFeedback([{ text: "a", label: "login" }], ownTenant.key), 422, "not_available");
      await call("POST", "/v1/datasets", ownTenant.key, { name: "tickets", task, modality: "text" });
      expectError(await postFeedback([{ text: "a", label: "login" }], ownTenant.key), 422, "not_available");
    }
    await call("POST", "/v1/datasets/tickets/examples", ownTenant.key, { examples: tickets() });
    await call("POST", "/v1/heads", ownTenant.key, { name: "support", dataset: "tickets" });
    expect((await postAcceptedFeedback([{ text: "a", label: "login" }], ownTenant.key)).json.policy.new_examples).toBe(
      1,
    );
  });

  test("without an active version learns nothing", async () => {
    const ownTenant = await tenantWithTickets();
    await call("POST", "/v1/heads", ownTenant.key, { name: "support", dataset: "tickets", promote: false });
    expectError(await postFeedback([{ text: "a", label: "login" }], ownTenant.key), 404, "not_found");
  });

  test("learns into the data set of its active version, not of a newer one", async () => {
    const ownTenant = await newTenantWithHead();
    await call("POST", "/v1/datasets", ownTenant.key, { name: "newer", task: "single_label", modality: "text" });
    await call("POST", "/v1/datasets/newer/examples", ownTenant.key, { examples: tickets() });
    await call("POST", "/v1/heads", ownTenant.key, { name: "support", dataset: "newer", promote: false });
    const { json } = await postAcceptedFeedback([{ text: "a", label: "login" }], ownTenant.key);
    expect(json).toMatchObject({ version: 1, policy: { new_examples: 1 } });
    expect((await call("GET", "/v1/datasets/newer", ownTenant.key)).json.examples).toBe(18);
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
    const ownTenant = await newTenant();
    await call("POST", "/v1/datasets", ownTenant.key, { name: "set", ...dataset });
    await call("POST", "/v1/datasets/set/examples", ownTenant.key, { examples });
    const trained = await call("POST", "/v1/heads", ownTenant.key, { name: "support", dataset: "set" });
    expect(trained.status, trained.text).toBe(201);
    const { json } = await postAcceptedFeedback([feedback], ownTenant.key);
    expect(json).toMatchObject({ added: 1, rejected: 0, judged });
    const { text, embedding } = feedback as { text?: string; embedding?: number[] };
    const input = text ?? { embedding };
    const [{ label, labels }] = (await call("POST", "/v1/heads/support/predict", ownTenant.key, { input })).json.data;
    const isCorrect = "labels" in feedback ? labels.length === 0 : "label" in feedback && label === feedback.label;
    expect(json.hits).toBe(judged === 1 && isCorrect ? 1 : 0);
  });

  test("is not judged on what is out of scope", async () => {
    const ownTenant = await newTenant();
    await call("POST", "/v1/datasets", ownTenant.key, {
      name: "set",
      task: "single_label",
      modality: "text",
      out_of_scope_label: "other",
    });
    await call("POST", "/v1/datasets/set/examples", ownTenant.key, { examples: tickets() });
    await call("POST", "/v1/heads", ownTenant.key, { name: "support", dataset: "set" });
    expect(
      (await postAcceptedFeedback([{ text: "what is the capital of France", label: "other" }], ownTenant.key)).json,
    ).toMatchObject({
      added: 1,
      judged: 0,
    });
  });
});

describe("drift", () => {
  /** Texts that the head is sure of, labelled as they are not. */
  const wrongExamples = (count: number, topic = "parcel") =>
    Array.from({ length: count }, (_, i) => ({ text: `where is my ${topic} number ${i}`, label: "billing" }));

  test("is told of once, with what shows it", async () => {
    const ownTenant = await newTenantWithHead();
    await postAcceptedFeedback(wrongExamples(19), ownTenant.key);
    expect(await listEvents(ownTenant.id, "head.drifting")).toEqual([]);
    expect((await postAcceptedFeedback(wrongExamples(1, "shipment"), ownTenant.key)).json.policy).toMatchObject({
      drifting: true,
      recent: { judged: 20 },
    });
    const [event, ...others] = await listEvents(ownTenant.id, "head.drifting");
    expect(others).toEqual([]);
    const { evaluation } = (await call("GET", "/v1/heads/support", ownTenant.key)).json;
    expect(event?.data).toEqual({
      id: "support",
      object: "head",
      version: 1,
      reason: "feedback",
      judged: 20,
      accuracy: expect.any(Number),
      held_out_accuracy: evaluation.accuracy,
      p_value: expect.any(Number),
    });
    expect(event?.data.accuracy).toBeLessThan(0.5);
    expect(event?.data.p_value).toBeLessThan(0.01);
    await postAcceptedFeedback(wrongExamples(30, "order"), ownTenant.key);
    expect(await listEvents(ownTenant.id, "head.drifting")).toHaveLength(1);
  });

  test("is not seen in the same examples again, nor in what the head gets right", async () => {
    const ownTenant = await newTenantWithHead();
    for (let i = 0; i < 5; i++) await postAcceptedFeedback(wrongExamples(10), ownTenant.key);
    const correctExamples = Array.from({ length: 90 }, (_, i) => ({
      text: `where is my parcel, number ${i}`,
      label: "shipping",
    }));
    await postAcceptedFeedback(correctExamples, ownTenant.key);
    const { json } = await call("GET", "/v1/heads/support/policy", ownTenant.key);
    expect(json).toMatchObject({ drifting: false, recent: { judged: 100 } });
    expect(await listEvents(ownTenant.id, "head.drifting")).toEqual([]);
    // Of all but the last hundred nothing is kept.
    await postAcceptedFeedback([{ text: "track my parcel", label: "shipping" }], ownTenant.key);
    expect((await call("GET", "/v1/heads/support/policy", ownTenant.key)).json.recent.judged).toBe(100);
  });

  test("is seen by hooks that learn, of heads with a policy alone", async () => {
    const ownTenant = await newTenantWithHead();
    await call("POST", "/v1/heads", ownTenant.key, { name: "second", dataset: "tickets" });
    await call("PUT", "/v1/heads/second/policy", ownTenant.key, {});
    const hook = await newLearnHook(ownTenant.key);
    for (const message of wrongExamples(20)) await postAccepted(hook, message);
    expect((await listEvents(ownTenant.id, "head.drifting")).map(({ data }) => data.id)).toEqual(["second"]);
    expect((await call("GET", "/v1/heads/support/policy", ownTenant.key)).json.recent.judged).toBe(0);
  });

  test("begins anew with each active version", async () => {
    const ownTenant = await newTenantWithHead();
    await postAcceptedFeedback(wrongExamples(20), ownTenant.key);
    await call("POST", "/v1/heads", ownTenant.key, { name: "support", dataset: "tickets" });
    const { json } = await call("GET", "/v1/heads/support/policy", ownTenant.key);
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
