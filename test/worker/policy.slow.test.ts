/** Policies: when heads train again by themselves, what becomes of the version, and of failures. */
import { SELF } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test, vi } from "vitest";
import type { ErrorCode } from "../../src/core/failure.ts";
import { makeRetrainingToken } from "../../src/jobs/token.ts";
import { getPolicy } from "../../src/tenant/heads/policies.ts";
import { beginRetraining, failRetraining } from "../../src/tenant/heads/retraining.ts";
import { setNextAlarm } from "../../src/tenant/tasks/tasks.ts";
import { getLedger } from "../../src/tenant/tenant.ts";
import { trainingSlot } from "../../src/training/slot.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";
import { speedUpClock } from "./clock.ts";
import {
  fakeEndpoint,
  inLedger,
  listDueTasks,
  mockBatchEndpoint,
  respond,
  waitForJob,
  waitForSubmission,
} from "./fake-batch-endpoint.ts";
import { listEvents, newLearnHook, postAccepted } from "./inbound-hooks.ts";

const POLICY = "/v1/heads/support/policy";
const WAIT_OPTIONS = { timeout: 30_000, interval: 20 };
interface Owner {
  readonly id: string;
  readonly key: string;
}

mockBatchEndpoint();

async function newTenantWithHead(policy?: object): Promise<Owner> {
  const tenant = await tenantWithTickets();
  const trained = await call("POST", "/v1/heads", tenant.key, { name: "support", dataset: "tickets" });
  expect(trained.status, trained.text).toBe(201);
  if (policy !== undefined) await setPolicy(tenant, policy);
  return tenant;
}

async function setPolicy({ key }: Owner, policy: object) {
  const answer = await call("PUT", POLICY, key, policy);
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
}

const fetchPolicy = async ({ key }: Owner) => (await call("GET", POLICY, key)).json;

let textCount = 0;
/** As many examples that nobody has seen. */
const newExamples = (count: number, label = "login") =>
  Array.from({ length: count }, () => ({ text: `I cannot log in, again, ${++textCount}`, label }));

async function sendFeedback({ key }: Owner, examples: readonly object[]): Promise<void> {
  const answer = await call("POST", "/v1/heads/support/feedback", key, { examples });
  expect(answer.status, answer.text).toBe(200);
  expect(answer.json.rejected).toBe(0);
}

async function addExamples({ key }: Owner, examples: readonly object[], dataset = "tickets"): Promise<void> {
  const answer = await call("POST", `/v1/datasets/${dataset}/examples`, key, { examples });
  expect(answer.status, answer.text).toBe(200);
}

/** Waits until nothing of a retraining is due; answers the versions of the head, oldest first. */
// biome-ignore lint/suspicious/noExplicitAny: as an answer's body
async function waitForRetraining(owner: Owner): Promise<any[]> {
  await vi.waitUntil(async () => (await listDueTasks(owner.id, "retrain")).length === 0, WAIT_OPTIONS);
  return (await call("GET", "/v1/heads/support/versions?limit=100", owner.key)).json.data.toReversed();
}

/** Keeps every training waiting for its turn, until what it answers is called. */
function blockTrainings(): () => void {
  const holder = { lastHeartbeat: Date.now() + 3_600_000, onPreempt: () => undefined };
  trainingSlot.holder = holder;
  return () => {
    if (trainingSlot.holder === holder) trainingSlot.holder = null;
  };
}

const waitForTraining = (owner: Owner) => vi.waitUntil(async () => (await fetchPolicy(owner)).retraining, WAIT_OPTIONS);

describe("a policy", () => {
  let owner: Owner;
  beforeAll(async () => {
    owner = await newTenantWithHead();
  });

  test("is by default none, is set as a whole, and shown", async () => {
    const expectedPolicy = {
      object: "head.policy",
      id: "support",
      retrain_after_examples: null,
      retrain_on_drift: false,
      promote: "if_not_worse",
      test_dataset: null,
      new_examples: 0,
      retraining: false,
      recent: { judged: 0, hits: 0 },
      drifting: false,
      last_failure: null,
    };
    expect(await fetchPolicy(owner)).toEqual(expectedPolicy);
    const set = { retrain_after_examples: 50, retrain_on_drift: true, promote: "never" };
    expect(await setPolicy(owner, set)).toEqual({ ...expectedPolicy, ...set });
    expect(await fetchPolicy(owner)).toEqual({ ...expectedPolicy, ...set });
    expect(await setPolicy(owner, {})).toEqual(expectedPolicy);
  });

  test("names a test set that exists, of the head's task", async () => {
    const set = { test_dataset: "tickets" };
    expect(await setPolicy(owner, set)).toMatchObject(set);
    expect(await setPolicy(owner, {})).toMatchObject({ test_dataset: null });
    const put = (test_dataset: unknown) => call("PUT", POLICY, owner.key, { test_dataset });
    expectError(await put("absent"), 404, "not_found", "test_dataset");
    await call("POST", "/v1/datasets", owner.key, { name: "numbers", task: "regression", modality: "text" });
    expectError(await put("numbers"), 422, "task_mismatch", "test_dataset");
    expectError(await put("NO"), 400, "invalid_parameter", "test_dataset");
  });

  test("takes a key of its scope, of the head's own tenant", async () => {
    await expectAuthorization(owner.key, "train", "PUT", POLICY, {});
    await expectAuthorization(owner.key, "predict", "GET", POLICY);
    const other = await newTenantWithHead();
    await expectHidden("GET", POLICY, undefined, () => Promise.resolve());
    await expectHidden("PUT", POLICY, {}, () => call("DELETE", "/v1/heads/support", other.key));
    expectError(await call("GET", POLICY, other.key), 404, "not_found");
  });

  test.each<[object, ErrorCode, string]>([
    [{ retrain_after_examples: 0 }, "invalid_parameter", "retrain_after_examples"],
    [{ retrain_after_examples: 1.5 }, "invalid_parameter", "retrain_after_examples"],
    [{ retrain_after_examples: 1e9 }, "invalid_parameter", "retrain_after_examples"],
    [{ retrain_on_drift: "yes" }, "invalid_parameter", "retrain_on_drift"],
    [{ promote: "if_better" }, "invalid_parameter", "promote"],
    [{ after: 1 }, "unknown_parameter", "after"],
  ])("that is %j is refused", async (policy, code, param) => {
    expectError(await call("PUT", POLICY, owner.key, policy), 400, code, param);
  });

  test("that a head cannot follow is refused", async () => {
    const ownTenant = await newTenant();
    await call("POST", "/v1/heads", ownTenant.key, { name: "support", examples: tickets() });
    expectError(await call("PUT", POLICY, ownTenant.key, { retrain_after_examples: 5 }), 422, "not_available");
    expectError(await call("PUT", POLICY, ownTenant.key, { retrain_on_drift: true }), 422, "not_available");
    await call("POST", "/v1/datasets", ownTenant.key, { name: "values", task: "regression", modality: "text" });
    await addExamples(
      ownTenant,
      tickets().map(({ text }, value) => ({ text, value })),
      "values",
    );
    await call("DELETE", "/v1/heads/support", ownTenant.key);
    await call("POST", "/v1/heads", ownTenant.key, { name: "support", dataset: "values" });
    expectError(
      await call("PUT", POLICY, ownTenant.key, { retrain_on_drift: true }),
      422,
      "task_mismatch",
      "retrain_on_drift",
    );
    expect((await call("PUT", POLICY, ownTenant.key, { retrain_after_examples: 5 })).status).toBe(200);
  });
});

describe("a head trains again", () => {
  const triggers: Readonly<Record<string, (owner: Owner) => Promise<unknown>>> = {
    feedback: (owner) => sendFeedback(owner, newExamples(3)),
    "an import": (owner) => addExamples(owner, newExamples(3)),
    "hooks that learn": async (owner) => {
      const hook = await newLearnHook(owner.key);
      for (const message of newExamples(3)) await postAccepted(hook, message);
    },
    "all of them": async (owner) => {
      await sendFeedback(owner, newExamples(1));
      await addExamples(owner, newExamples(1));
      await postAccepted(await newLearnHook(owner.key), newExamples(1)[0]);
    },
    "edits of examples": async ({ key }) => {
      for (const { id } of (await call("GET", "/v1/datasets/tickets/examples?limit=3", key)).json.data)
        await call("PATCH", `/v1/datasets/tickets/examples/${id}`, key, { text: `edited ${++textCount}` });
    },
    "a policy that asks for it at once": async (owner) => {
      await setPolicy(owner, {});
      await addExamples(owner, newExamples(3));
      expect((await fetchPolicy(owner)).new_examples).toBe(3);
      await setPolicy(owner, { retrain_after_examples: 3, promote: "always" });
    },
  };
  test.each(Object.keys(triggers))("after so many new examples, by %s", async (trigger) => {
    const owner = await newTenantWithHead({ retrain_after_examples: 3, promote: "always" });
    if (trigger !== "a policy that asks for it at once") {
      // What is there already, or again, is not new.
      await sendFeedback(owner, tickets().slice(0, 5));
      expect(await waitForRetraining(owner)).toHaveLength(1);
    }
    await triggers[trigger]?.(owner);
    const versions = await waitForRetraining(owner);
    expect(versions).toHaveLength(2);
    expect(versions[1]).toMatchObject({ version: 2, active_version: 2, training: { method: "head" } });
    expect(versions[1].dataset.name).toBe("tickets");
    expect(versions[1].backbone).toEqual(versions[0].backbone);
    expect(await fetchPolicy(owner)).toMatchObject({ new_examples: 0, retraining: false, last_failure: null });
    const events = await listEvents(owner.id, "head.trained", "head.promoted");
    expect(events.map(({ type, data }) => [type, data.version]).slice(-2)).toEqual([
      ["head.trained", 2],
      ["head.promoted", 2],
    ]);
  });

  test("not before, and after as many once more", async () => {
    const owner = await newTenantWithHead({ retrain_after_examples: 3, promote: "always" });
    for (const [count, versions] of [
      [2, 1],
      [1, 2],
      [2, 2],
      [1, 3],
    ] as const) {
      await sendFeedback(owner, newExamples(count));
      expect(await waitForRetraining(owner)).toHaveLength(versions);
    }
  });

  test("one training at a time; what is asked for meanwhile is one more", async () => {
    const owner = await newTenantWithHead({ retrain_after_examples: 2, promote: "always" });
    const release = blockTrainings();
    await sendFeedback(owner, newExamples(2));
    await waitForTraining(owner);
    for (let i = 0; i < 4; i++) await sendFeedback(owner, newExamples(1));
    expect(await listDueTasks(owner.id, "retrain")).toHaveLength(1);
    release();
    const versions = await waitForRetraining(owner);
    expect(versions.map(({ dataset }) => dataset.examples)).toEqual([18, 20, 24]);
  });

  test("not once more, where too little was asked for meanwhile", async () => {
    const owner = await newTenantWithHead({ retrain_after_examples: 2, promote: "always" });
    const release = blockTrainings();
    await sendFeedback(owner, newExamples(2));
    await waitForTraining(owner);
    await sendFeedback(owner, newExamples(1));
    release();
    expect(await waitForRetraining(owner)).toHaveLength(2);
    expect((await fetchPolicy(owner)).new_examples).toBe(1);
  });

  test("when it drifts, where its policy says so", async () => {
    const wrongExamples = (topic: string) =>
      Array.from({ length: 20 }, (_, i) => ({ text: `where is my ${topic} number ${i}`, label: "billing" }));
    const [notifiedOwner, retrainedOwner] = [
      await newTenantWithHead({}),
      await newTenantWithHead({ retrain_on_drift: true, promote: "always" }),
    ];
    for (const owner of [notifiedOwner, retrainedOwner]) {
      await sendFeedback(owner, wrongExamples("parcel"));
      expect(await listEvents(owner.id, "head.drifting")).toHaveLength(1);
    }
    expect(await waitForRetraining(notifiedOwner)).toHaveLength(1);
    expect(await waitForRetraining(retrainedOwner)).toHaveLength(2);
    expect(await fetchPolicy(retrainedOwner)).toMatchObject({ drifting: false, recent: { judged: 0 } });
    // A policy that comes after the drift finds it.
    await setPolicy(notifiedOwner, { retrain_on_drift: true, promote: "never" });
    expect(await waitForRetraining(notifiedOwner)).toHaveLength(2);
    // The version still drifts, which was told, and is not trained again for every further miss.
    await sendFeedback(notifiedOwner, wrongExamples("order"));
    expect(await waitForRetraining(notifiedOwner)).toHaveLength(2);
    expect(await listEvents(notifiedOwner.id, "head.drifting")).toHaveLength(1);
  });

  test("beyond one request as a fine-tuning job, whose promotion is the policy's", async () => {
    const manyExamples = Array.from({ length: 3000 }, (_, i) => ({ text: `text ${i}`, label: `label ${i}` }));
    for (const [promote, expectedPromote] of [
      ["if_not_worse", "if_better"],
      ["never", "never"],
    ]) {
      const owner = await newTenantWithHead({ retrain_after_examples: 1000, promote });
      fakeEndpoint(owner.id).onSubmit = respond(429, "", { "retry-after": "600" });
      await addExamples(owner, manyExamples);
      const submission = await waitForSubmission(owner.id);
      const job = await waitForJob(owner.key, submission.id, "queued");
      expect(job).toMatchObject({
        training_file: "dataset:tickets",
        graft: { head: "support", promote: expectedPromote },
      });
      await vi.waitUntil(async () => (await listDueTasks(owner.id, "retrain")).length === 0, WAIT_OPTIONS);
      // Its examples count as trained on, and while it is under way there is no other.
      expect(await fetchPolicy(owner)).toMatchObject({ new_examples: 0, retraining: true, last_failure: null });
      await setPolicy(owner, { retrain_after_examples: 1, promote });
      await sendFeedback(owner, newExamples(1));
      // What is due then finds the job, and is put off.
      await vi.waitUntil(async () => {
        const [task] = await listDueTasks(owner.id, "retrain");
        return task !== undefined && task.run_at > Date.now() + 30_000;
      }, WAIT_OPTIONS);
      expect((await call("GET", "/v1/fine_tuning/jobs", owner.key)).json.data).toHaveLength(1);
      await call("POST", `/v1/fine_tuning/jobs/${job.id}/cancel`, owner.key, {});
      expect((await fetchPolicy(owner)).retraining).toBe(false);
    }
  });
});

describe("the version that it makes", () => {
  /** Two clusters, which a head tells apart without a fault; or noise, which none can. */
  const makePoints = (count: number, labelOf: (i: number) => string) =>
    Array.from({ length: count }, (_, i) => ({
      embedding: [i % 2 ? 1 : -1, Math.sin(++textCount) / 3],
      label: labelOf(i),
    }));
  const separablePoints = (count: number) => makePoints(count, (i) => (i % 2 ? "odd" : "even"));
  const noisePoints = (count: number) => makePoints(count, (i) => (i % 4 < 2 ? "odd" : "even"));

  async function newTenantWithClusters(policy: object): Promise<Owner> {
    const owner = await newTenant();
    const dataset = { name: "tickets", task: "single_label", modality: "embedding", dimensions: 2 };
    await call("POST", "/v1/datasets", owner.key, dataset);
    await addExamples(owner, separablePoints(40));
    const { json } = await call("POST", "/v1/heads", owner.key, { name: "support", dataset: "tickets" });
    expect(json.evaluation.accuracy).toBe(1);
    await setPolicy(owner, { retrain_after_examples: 10, ...policy });
    return owner;
  }

  test.each([
    ["if_not_worse", separablePoints, 2],
    ["if_not_worse", noisePoints, 1],
    ["always", noisePoints, 2],
    ["never", separablePoints, 1],
  ] as const)("is by %s promoted, or is not", async (promote, addPoints, expectedActive) => {
    const owner = await newTenantWithClusters({ promote });
    await addExamples(owner, addPoints(60));
    const versions = await waitForRetraining(owner);
    expect(versions).toHaveLength(2);
    expect(versions[1].active_version).toBe(expectedActive);
    if (addPoints === noisePoints) expect(versions[1].evaluation.accuracy).toBeLessThan(0.9);
    const promoted = (await listEvents(owner.id, "head.promoted")).map(({ data }) => data.version);
    expect(promoted).toEqual(expectedActive === 2 ? [1, 2] : [1]);
    // Promoted or not, its examples are no longer new.
    expect((await fetchPolicy(owner)).new_examples).toBe(0);
  });

  test("is promoted where nothing is active", async () => {
    const owner = await newTenant();
    await call("POST", "/v1/datasets", owner.key, { name: "tickets", task: "single_label", modality: "text" });
    await addExamples(owner, tickets());
    await call("POST", "/v1/heads", owner.key, { name: "support", dataset: "tickets", promote: false });
    await setPolicy(owner, { retrain_after_examples: 1 });
    await addExamples(owner, newExamples(1));
    expect((await waitForRetraining(owner)).at(-1)).toMatchObject({ version: 2, active_version: 2 });
  });
});

describe("a retraining that fails", () => {
  test("for good is told of, and is not tried again until there are as many examples once more", async () => {
    const owner = await newTenantWithHead({ retrain_after_examples: 2 });
    for (const { id, label } of (await call("GET", "/v1/datasets/tickets/examples?limit=100", owner.key)).json.data)
      if (label !== "login") await call("DELETE", `/v1/datasets/tickets/examples/${id}`, owner.key);
    await sendFeedback(owner, newExamples(2));
    expect(await waitForRetraining(owner)).toHaveLength(1);
    const [event, ...others] = await listEvents(owner.id, "head.failed");
    expect(others).toEqual([]);
    const reason = { code: "too_few_labels", message: expect.any(String) };
    expect(event?.data).toEqual({ id: "support", object: "head", version: 1, reason });
    expect(await fetchPolicy(owner)).toMatchObject({ last_failure: reason, new_examples: 0, retraining: false });
    await sendFeedback(owner, newExamples(1));
    await waitForRetraining(owner);
    expect(await listEvents(owner.id, "head.failed")).toHaveLength(1);
    await sendFeedback(owner, newExamples(1));
    await waitForRetraining(owner);
    expect(await listEvents(owner.id, "head.failed")).toHaveLength(2);
    await sendFeedback(owner, newExamples(2, "billing"));
    expect(await waitForRetraining(owner)).toHaveLength(2);
    expect((await fetchPolicy(owner)).last_failure).toBeNull();
  });

  test("for now is tried again later, and requests do not hurry it", async () => {
    const owner = await newTenantWithHead({ retrain_after_examples: 1, promote: "always" });
    const release = blockTrainings();
    try {
      await sendFeedback(owner, newExamples(1));
      await waitForTraining(owner);
      // It waits for a minute.
      speedUpClock(50);
      await vi.waitUntil(async () => !(await fetchPolicy(owner)).retraining, { timeout: 30_000, interval: 100 });
    } finally {
      vi.restoreAllMocks();
      release();
    }
    await sendFeedback(owner, newExamples(1));
    const [due] = await listDueTasks(owner.id, "retrain");
    expect(due?.run_at).toBeGreaterThan(Date.now() + 3_000);
    expect(await listEvents(owner.id, "head.failed")).toEqual([]);
    await inLedger(owner.id, (storage) => {
      storage.sql.exec("UPDATE head_learning SET state = json_set(state, '$.nextAt', 0)");
      storage.sql.exec("UPDATE due SET run_at = 1 WHERE kind = 'retrain'");
      return setNextAlarm(storage);
    });
    const versions = await waitForRetraining(owner);
    expect(versions.map(({ dataset }) => dataset.examples)).toEqual([18, 20]);
  });

  test("five times in a row, or is lost as often, is given up", async () => {
    const failure = { code: "backend_unavailable", message: "It was down.", retryAfter: 1 } as const;
    for (const isLost of [false, true]) {
      const owner = await newTenantWithHead({});
      await addExamples(owner, newExamples(1));
      await inLedger(owner.id, ({ sql }) => {
        sql.exec("UPDATE head_learning SET policy = json_set(policy, '$.retrain_after_examples', 1)");
        const delays: (number | null)[] = [];
        let now = Date.now();
        for (let i = 0; i < 5; i++) {
          const retraining = beginRetraining(sql, "support", now);
          expect(retraining).toEqual({ attempt: i + 1 });
          // One that is under way, or waits, is not begun again before its time.
          const nextRun = isLost
            ? beginRetraining(sql, "support", now - 1)
            : failRetraining(sql, "support", i + 1, failure, now);
          delays.push(typeof nextRun === "number" ? nextRun - now : null);
          if (typeof nextRun === "number") now = nextRun;
        }
        if (isLost) expect(beginRetraining(sql, "support", now)).toBeNull();
        expect(delays.slice(0, 4)).toEqual([10_000, 40_000, 160_000, 640_000]);
        expect(beginRetraining(sql, "support", now)).toBeNull();
        expect(getPolicy(sql, "support")).toMatchObject({ ok: true, value: { new_examples: 0, retraining: false } });
      });
      const failureEvents = await listEvents(owner.id, "head.failed");
      expect(failureEvents.map(({ data }) => data.reason.code)).toEqual([isLost ? "internal_error" : failure.code]);
    }
  });
});

test("a retraining that was lost and is no longer wanted ends", async () => {
  const owner = await newTenantWithHead({});
  await addExamples(owner, newExamples(1));
  const setRetrainAfter = (exampleCount: number) =>
    inLedger(owner.id, ({ sql }) => {
      sql.exec("UPDATE head_learning SET policy = json_set(policy, '$.retrain_after_examples', ?)", exampleCount);
      return beginRetraining(sql, "support", Date.now());
    });
  expect(await setRetrainAfter(1)).toEqual({ attempt: 1 });
  expect((await fetchPolicy(owner)).retraining).toBe(true);
  expect(await setRetrainAfter(100)).toBeNull();
  expect((await fetchPolicy(owner)).retraining).toBe(false);
});

describe("what is deleted in between", () => {
  test.each<[string, (owner: Owner) => Promise<unknown>]>([
    ["the head", ({ key }) => call("DELETE", "/v1/heads/support", key)],
    ["the data set", ({ key }) => call("DELETE", "/v1/datasets/tickets", key)],
    ["the tenant", ({ id }) => call("DELETE", `/v1/admin/tenants/${id}`, env.ADMIN_KEY)],
  ])("%s: nothing comes of the training that was under way", async (what, remove) => {
    const owner = await newTenantWithHead({ retrain_after_examples: 1, promote: "always" });
    const release = blockTrainings();
    await sendFeedback(owner, newExamples(1));
    await waitForTraining(owner);
    await remove(owner);
    release();
    if (what === "the tenant") {
      await vi.waitUntil(async () => {
        const { json } = await call("GET", `/v1/admin/tenants/${owner.id}`, env.ADMIN_KEY);
        return json.status === "deleted";
      }, WAIT_OPTIONS);
      return;
    }
    if (what === "the data set") {
      expect(await waitForRetraining(owner)).toHaveLength(1);
      expect(await fetchPolicy(owner)).toMatchObject({ retraining: false, new_examples: 0, last_failure: null });
    }
    await vi.waitUntil(async () => (await listDueTasks(owner.id, "retrain")).length === 0, WAIT_OPTIONS);
    if (what === "the head") {
      expectError(await call("GET", "/v1/heads/support", owner.key), 404, "not_found");
      expect(await inLedger(owner.id, ({ sql }) => sql.exec("SELECT * FROM head_learning").toArray())).toEqual([]);
      // A head of the same name begins anew, once the training of the deleted one no longer waits.
      const params = { name: "support", dataset: "tickets" };
      await vi.waitUntil(async () => (await call("POST", "/v1/heads", owner.key, params)).status === 201, WAIT_OPTIONS);
      expect(await fetchPolicy(owner)).toMatchObject({ retrain_after_examples: null, last_failure: null });
    }
    expect(await listEvents(owner.id, "head.failed")).toEqual([]);
  });
});

describe("the route that the ledger calls", () => {
  const postRetrain = (head: string, token?: string) =>
    SELF.fetch(`http://graft.test/internal/heads/${head}/retrain`, {
      method: "POST",
      headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
    });
  const errorCode = async (response: Response) => (await response.json<{ error: { code: ErrorCode } }>()).error.code;

  test("takes the token of this head alone, and has no effect but of the current attempt", async () => {
    const owner = await newTenantWithHead({ retrain_after_examples: 100 });
    const tokenClaims = { tenant: owner.id, head: "support", attempt: 1 };
    const validToken = makeRetrainingToken(env.SERVER_KEY, tokenClaims);
    for (const [head, token] of [
      ["support", undefined],
      ["support", owner.key],
      ["support", makeRetrainingToken("another key", tokenClaims)],
      ["support", `${validToken.slice(0, -1)}${validToken.endsWith("0") ? 1 : 0}`],
      ["support", makeRetrainingToken(env.SERVER_KEY, { ...tokenClaims, head: "other" })],
      ["other", validToken],
    ] as const) {
      const refused = await postRetrain(head, token);
      expect([refused.status, await errorCode(refused)]).toEqual([401, "invalid_api_key"]);
    }
    for (const attempt of [1, 2]) {
      const lateAttempt = await postRetrain(
        "support",
        makeRetrainingToken(env.SERVER_KEY, { ...tokenClaims, attempt }),
      );
      expect([lateAttempt.status, await errorCode(lateAttempt)]).toEqual([409, "attempt_ended"]);
    }
    const unknownTenant = await postRetrain(
      "support",
      makeRetrainingToken(env.SERVER_KEY, { ...tokenClaims, tenant: "nobody" }),
    );
    expect([unknownTenant.status, await errorCode(unknownTenant)]).toEqual([404, "not_found"]);
    expect(await waitForRetraining(owner)).toHaveLength(1);
  });

  test("trains once for an attempt, however often it is called; an older one's version is not taken", async () => {
    const owner = await newTenantWithHead({});
    await addExamples(owner, newExamples(1));
    const startRetraining = () =>
      inLedger(owner.id, ({ sql }) => {
        sql.exec("UPDATE head_learning SET policy = json_set(policy, '$.retrain_after_examples', 1)");
        return beginRetraining(sql, "support", Date.now() + 3_600_000);
      });
    const token = (attempt: number) =>
      makeRetrainingToken(env.SERVER_KEY, { tenant: owner.id, head: "support", attempt });
    expect(await startRetraining()).toEqual({ attempt: 1 });
    const release = blockTrainings();
    const olderAttempt = postRetrain("support", token(1));
    await scheduler.wait(50);
    await inLedger(owner.id, ({ sql }) => sql.exec("UPDATE head_learning SET state = json_set(state, '$.nextAt', 0)"));
    expect(await startRetraining()).toEqual({ attempt: 2 });
    release();
    expect([(await olderAttempt).status, await errorCode(await olderAttempt)]).toEqual([409, "attempt_ended"]);
    const [firstResponse, secondResponse] = await Promise.all([
      postRetrain("support", token(2)),
      postRetrain("support", token(2)),
    ]);
    expect([firstResponse.status, secondResponse.status].toSorted()).toEqual([200, 409]);
    expect(await waitForRetraining(owner)).toHaveLength(2);
  });
});

describe("a policy's test set", () => {
  const policy = { retrain_after_examples: 3, test_dataset: "holdout" };

  async function newTenantWithTestSet(examples: readonly object[]): Promise<Owner> {
    const owner = await newTenantWithHead();
    await call("POST", "/v1/datasets", owner.key, { name: "holdout", task: "single_label", modality: "text" });
    await addExamples(owner, examples, "holdout");
    await setPolicy(owner, policy);
    return owner;
  }

  test("promotes a version that is not worse on it, and the version's run says so", async () => {
    const owner = await newTenantWithTestSet(tickets());
    await addExamples(owner, newExamples(3));
    const [, second] = await waitForRetraining(owner);
    expect(second).toMatchObject({ version: 2, active_version: 2, test: { dataset: "holdout", failure: null } });
    const run = (await call("GET", `/v1/evaluations/${second.test.evaluation}`, owner.key)).json;
    expect(run).toMatchObject({ head: "support", version: 2, comparison: { version: 1 } });
    expect(run.comparison.chance_of_loss).toBeLessThanOrEqual(0.5);
  });

  test("keeps a version that is worse on it, and does not promote it", async () => {
    const owner = await newTenantWithTestSet(tickets().map(({ text, label }) => ({ text: `${text} please`, label })));
    // What comes in calls every topic a login, so that the new version does.
    const poison = tickets().flatMap(({ text }) =>
      Array.from({ length: 12 }, (_, n) => ({ text: `${text} please ${n}`, label: "login" })),
    );
    await addExamples(owner, poison);
    const [, second] = await waitForRetraining(owner);
    expect(second).toMatchObject({ version: 2, active_version: 1 });
    const run = (await call("GET", `/v1/evaluations/${second.test.evaluation}`, owner.key)).json;
    expect(run.comparison.chance_of_loss).toBeGreaterThan(0.5);
    expect(run.comparison.broken).toBeGreaterThan(run.comparison.fixed);
    expect((await fetchPolicy(owner)).last_failure).toBeNull();
  });

  test.each<[string, ErrorCode, (owner: Owner) => Promise<unknown>]>([
    ["was deleted", "not_found", (owner) => call("DELETE", "/v1/datasets/holdout", owner.key)],
    [
      "shares no label",
      "too_few_labels",
      async (owner) => {
        await call("DELETE", "/v1/datasets/holdout", owner.key);
        await call("POST", "/v1/datasets", owner.key, { name: "holdout", task: "single_label", modality: "text" });
        await addExamples(owner, [{ text: "a", label: "x" }], "holdout");
      },
    ],
  ])("that %s promotes nothing, and the version is kept", async (_, code, change) => {
    const owner = await newTenantWithTestSet(tickets());
    await change(owner);
    await addExamples(owner, newExamples(3));
    const [, second] = await waitForRetraining(owner);
    expect(second).toMatchObject({ version: 2, active_version: 1, test: { evaluation: null, failure: { code } } });
    expect((await fetchPolicy(owner)).last_failure).toMatchObject({ code });
    expect((await call("GET", "/v1/evaluations", owner.key)).json.data).toEqual([]);
  });

  test("of an attempt that is committed twice, or after another began, changes nothing more", async () => {
    const owner = await newTenantWithTestSet(tickets());
    const head = (await call("GET", "/v1/heads/support", owner.key)).json;
    const ledger = getLedger(env.TENANT, owner.id);
    expect(await ledger.commitRetraining(1, head, null)).toMatchObject({ failure: { code: "attempt_ended" } });
    expect((await call("GET", "/v1/heads/support/versions", owner.key)).json.data).toHaveLength(1);
  });
});
