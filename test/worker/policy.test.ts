/** Policies: when heads train again by themselves, what becomes of the version, and of failures. */
import { SELF } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test, vi } from "vitest";
import type { Code } from "../../src/core/failure.ts";
import { trainingPlace } from "../../src/training/slot.ts";
import { makeRetrainingToken } from "../../src/jobs/token.ts";
import { arm } from "../../src/tenant/tasks/tasks.ts";
import { getPolicy } from "../../src/tenant/heads/policies.ts";
import { beginRetraining, failRetraining } from "../../src/tenant/heads/retraining.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { dueOf, endpointOf, inLedger, jobUntil, playBatchEndpoint, respond, submitted } from "./batch.ts";
import { expectGuarded, expectHidden, expectRefused } from "./expect.ts";
import { eventsOf, learnHook, posted } from "./inbound.ts";

const POLICY = "/v1/heads/support/policy";
const PATIENCE = { timeout: 15_000, interval: 20 };
interface Owner {
  readonly id: string;
  readonly key: string;
}

playBatchEndpoint();

async function withHead(policy?: object): Promise<Owner> {
  const made = await tenantWithTickets();
  const trained = await call("POST", "/v1/heads", made.key, { name: "support", dataset: "tickets" });
  expect(trained.status, trained.text).toBe(201);
  if (policy !== undefined) await setPolicy(made, policy);
  return made;
}

async function setPolicy({ key }: Owner, policy: object) {
  const answer = await call("PUT", POLICY, key, policy);
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
}

const policyOf = async ({ key }: Owner) => (await call("GET", POLICY, key)).json;

let texts = 0;
/** As many examples that nobody has seen. */
const fresh = (count: number, label = "login") =>
  Array.from({ length: count }, () => ({ text: `I cannot log in, again, ${++texts}`, label }));

async function teach({ key }: Owner, examples: readonly object[]): Promise<void> {
  const answer = await call("POST", "/v1/heads/support/feedback", key, { examples });
  expect(answer.status, answer.text).toBe(200);
  expect(answer.json.rejected).toBe(0);
}

async function add({ key }: Owner, examples: readonly object[], dataset = "tickets"): Promise<void> {
  const answer = await call("POST", `/v1/datasets/${dataset}/examples`, key, { examples });
  expect(answer.status, answer.text).toBe(200);
}

/** Waits until nothing of a retraining is due; answers the versions of the head, oldest first. */
// biome-ignore lint/suspicious/noExplicitAny: as an answer's body
async function settled(owner: Owner): Promise<any[]> {
  await vi.waitUntil(async () => (await dueOf(owner.id, "retrain")).length === 0, PATIENCE);
  return (await call("GET", "/v1/heads/support/versions?limit=100", owner.key)).json.data.toReversed();
}

/** Keeps every training waiting for its turn, until what it answers is called. */
function holdTrainings(): () => void {
  const holder = { seen: Date.now() + 3_600_000, abandon: () => undefined };
  trainingPlace.holder = holder;
  return () => {
    if (trainingPlace.holder === holder) trainingPlace.holder = null;
  };
}

const training = (owner: Owner) => vi.waitUntil(async () => (await policyOf(owner)).retraining, PATIENCE);

describe("a policy", () => {
  let owner: Owner;
  beforeAll(async () => {
    owner = await withHead();
  });

  test("is by default none, is set as a whole, and shown", async () => {
    const shown = {
      object: "head.policy",
      id: "support",
      retrain_after_examples: null,
      retrain_on_drift: false,
      promote: "if_not_worse",
      new_examples: 0,
      retraining: false,
      recent: { judged: 0, hits: 0 },
      drifting: false,
      last_failure: null,
    };
    expect(await policyOf(owner)).toEqual(shown);
    const set = { retrain_after_examples: 50, retrain_on_drift: true, promote: "never" };
    expect(await setPolicy(owner, set)).toEqual({ ...shown, ...set });
    expect(await policyOf(owner)).toEqual({ ...shown, ...set });
    expect(await setPolicy(owner, {})).toEqual(shown);
  });

  test("takes a key of its scope, of the head's own tenant", async () => {
    await expectGuarded(owner.key, "train", "PUT", POLICY, {});
    await expectGuarded(owner.key, "predict", "GET", POLICY);
    const other = await withHead();
    await expectHidden("GET", POLICY, undefined, () => Promise.resolve());
    await expectHidden("PUT", POLICY, {}, () => call("DELETE", "/v1/heads/support", other.key));
    expectRefused(await call("GET", POLICY, other.key), 404, "not_found");
  });

  test.each<[object, Code, string]>([
    [{ retrain_after_examples: 0 }, "invalid_parameter", "retrain_after_examples"],
    [{ retrain_after_examples: 1.5 }, "invalid_parameter", "retrain_after_examples"],
    [{ retrain_after_examples: 1e9 }, "invalid_parameter", "retrain_after_examples"],
    [{ retrain_on_drift: "yes" }, "invalid_parameter", "retrain_on_drift"],
    [{ promote: "if_better" }, "invalid_parameter", "promote"],
    [{ after: 1 }, "unknown_parameter", "after"],
  ])("that is %j is refused", async (policy, code, param) => {
    expectRefused(await call("PUT", POLICY, owner.key, policy), 400, code, param);
  });

  test("that a head cannot follow is refused", async () => {
    const own = await newTenant();
    await call("POST", "/v1/heads", own.key, { name: "support", examples: tickets() });
    expectRefused(await call("PUT", POLICY, own.key, { retrain_after_examples: 5 }), 422, "not_available");
    expectRefused(await call("PUT", POLICY, own.key, { retrain_on_drift: true }), 422, "not_available");
    await call("POST", "/v1/datasets", own.key, { name: "values", task: "regression", modality: "text" });
    await add(
      own,
      tickets().map(({ text }, value) => ({ text, value })),
      "values",
    );
    await call("POST", "/v1/heads", own.key, { name: "support", dataset: "values" });
    expectRefused(
      await call("PUT", POLICY, own.key, { retrain_on_drift: true }),
      422,
      "task_mismatch",
      "retrain_on_drift",
    );
    expect((await call("PUT", POLICY, own.key, { retrain_after_examples: 5 })).status).toBe(200);
  });
});

describe("a head trains again", () => {
  const ways: Readonly<Record<string, (owner: Owner) => Promise<unknown>>> = {
    feedback: (owner) => teach(owner, fresh(3)),
    "an import": (owner) => add(owner, fresh(3)),
    "hooks that learn": async (owner) => {
      const hook = await learnHook(owner.key);
      for (const message of fresh(3)) await posted(hook, message);
    },
    "all of them": async (owner) => {
      await teach(owner, fresh(1));
      await add(owner, fresh(1));
      await posted(await learnHook(owner.key), fresh(1)[0]);
    },
    "edits of examples": async ({ key }) => {
      for (const { id } of (await call("GET", "/v1/datasets/tickets/examples?limit=3", key)).json.data)
        await call("PATCH", `/v1/datasets/tickets/examples/${id}`, key, { text: `edited ${++texts}` });
    },
    "a policy that asks for it at once": async (owner) => {
      await setPolicy(owner, {});
      await add(owner, fresh(3));
      expect((await policyOf(owner)).new_examples).toBe(3);
      await setPolicy(owner, { retrain_after_examples: 3, promote: "always" });
    },
  };
  test.each(Object.keys(ways))("after so many new examples, by %s", async (way) => {
    const owner = await withHead({ retrain_after_examples: 3, promote: "always" });
    if (way !== "a policy that asks for it at once") {
      // What is there already, or again, is not new.
      await teach(owner, tickets().slice(0, 5));
      expect(await settled(owner)).toHaveLength(1);
    }
    await ways[way]?.(owner);
    const versions = await settled(owner);
    expect(versions).toHaveLength(2);
    expect(versions[1]).toMatchObject({ version: 2, active_version: 2, training: { method: "head" } });
    expect(versions[1].dataset.name).toBe("tickets");
    expect(versions[1].backbone).toEqual(versions[0].backbone);
    expect(await policyOf(owner)).toMatchObject({ new_examples: 0, retraining: false, last_failure: null });
    const told = await eventsOf(owner.id, "head.trained", "head.promoted");
    expect(told.map(({ type, data }) => [type, data.version]).slice(-2)).toEqual([
      ["head.trained", 2],
      ["head.promoted", 2],
    ]);
  });

  test("not before, and after as many once more", async () => {
    const owner = await withHead({ retrain_after_examples: 3, promote: "always" });
    for (const [count, versions] of [
      [2, 1],
      [1, 2],
      [2, 2],
      [1, 3],
    ] as const) {
      await teach(owner, fresh(count));
      expect(await settled(owner)).toHaveLength(versions);
    }
  });

  test("one training at a time; what is asked for meanwhile is one more", async () => {
    const owner = await withHead({ retrain_after_examples: 2, promote: "always" });
    const release = holdTrainings();
    await teach(owner, fresh(2));
    await training(owner);
    for (let i = 0; i < 4; i++) await teach(owner, fresh(1));
    expect(await dueOf(owner.id, "retrain")).toHaveLength(1);
    release();
    const versions = await settled(owner);
    expect(versions.map(({ dataset }) => dataset.examples)).toEqual([18, 20, 24]);
  });

  test("not once more, where too little was asked for meanwhile", async () => {
    const owner = await withHead({ retrain_after_examples: 2, promote: "always" });
    const release = holdTrainings();
    await teach(owner, fresh(2));
    await training(owner);
    await teach(owner, fresh(1));
    release();
    expect(await settled(owner)).toHaveLength(2);
    expect((await policyOf(owner)).new_examples).toBe(1);
  });

  test("when it drifts, where its policy says so", async () => {
    const wrong = (of: string) =>
      Array.from({ length: 20 }, (_, i) => ({ text: `where is my ${of} number ${i}`, label: "billing" }));
    const [told, trained] = [await withHead({}), await withHead({ retrain_on_drift: true, promote: "always" })];
    for (const owner of [told, trained]) {
      await teach(owner, wrong("parcel"));
      expect(await eventsOf(owner.id, "head.drifting")).toHaveLength(1);
    }
    expect(await settled(told)).toHaveLength(1);
    expect(await settled(trained)).toHaveLength(2);
    expect(await policyOf(trained)).toMatchObject({ drifting: false, recent: { judged: 0 } });
    // A policy that comes after the drift finds it.
    await setPolicy(told, { retrain_on_drift: true, promote: "never" });
    expect(await settled(told)).toHaveLength(2);
    // The version still drifts, which was told, and is not trained again for every further miss.
    await teach(told, wrong("order"));
    expect(await settled(told)).toHaveLength(2);
    expect(await eventsOf(told.id, "head.drifting")).toHaveLength(1);
  });

  test("beyond one request as a fine-tuning job, whose promotion is the policy's", async () => {
    const many = Array.from({ length: 1500 }, (_, i) => ({ text: `text ${i}`, label: `label ${i}` }));
    for (const [promote, wanted] of [
      ["if_not_worse", "if_better"],
      ["never", "never"],
    ]) {
      const owner = await withHead({ retrain_after_examples: 1000, promote });
      endpointOf(owner.id).submit = respond(429, "", { "retry-after": "600" });
      await add(owner, many);
      const submission = await submitted(owner.id);
      const job = await jobUntil(owner.key, submission.id, "queued");
      expect(job).toMatchObject({ training_file: "dataset:tickets", graft: { head: "support", promote: wanted } });
      await vi.waitUntil(async () => (await dueOf(owner.id, "retrain")).length === 0, PATIENCE);
      // Its examples count as trained on, and while it is under way there is no other.
      expect(await policyOf(owner)).toMatchObject({ new_examples: 0, retraining: true, last_failure: null });
      await setPolicy(owner, { retrain_after_examples: 1, promote });
      await teach(owner, fresh(1));
      await scheduler.wait(200);
      expect((await call("GET", "/v1/fine_tuning/jobs", owner.key)).json.data).toHaveLength(1);
      const [due] = await dueOf(owner.id, "retrain");
      expect(due?.run_at).toBeGreaterThan(Date.now() + 30_000);
      await call("POST", `/v1/fine_tuning/jobs/${job.id}/cancel`, owner.key, {});
      expect((await policyOf(owner)).retraining).toBe(false);
    }
  });
});

describe("the version that it makes", () => {
  /** Two clusters, which a head tells apart without a fault; or noise, which none can. */
  const points = (count: number, labelOf: (i: number) => string) =>
    Array.from({ length: count }, (_, i) => ({
      embedding: [i % 2 ? 1 : -1, Math.sin(++texts) / 3],
      label: labelOf(i),
    }));
  const clear = (count: number) => points(count, (i) => (i % 2 ? "odd" : "even"));
  const noise = (count: number) => points(count, (i) => (i % 4 < 2 ? "odd" : "even"));

  async function withClusters(policy: object): Promise<Owner> {
    const owner = await newTenant();
    const dataset = { name: "tickets", task: "single_label", modality: "embedding", dimensions: 2 };
    await call("POST", "/v1/datasets", owner.key, dataset);
    await add(owner, clear(40));
    const { json } = await call("POST", "/v1/heads", owner.key, { name: "support", dataset: "tickets" });
    expect(json.evaluation.accuracy).toBe(1);
    await setPolicy(owner, { retrain_after_examples: 10, ...policy });
    return owner;
  }

  test.each([
    ["if_not_worse", clear, 2],
    ["if_not_worse", noise, 1],
    ["always", noise, 2],
    ["never", clear, 1],
  ] as const)("is by %s promoted, or is not", async (promote, more, active) => {
    const owner = await withClusters({ promote });
    await add(owner, more(60));
    const versions = await settled(owner);
    expect(versions).toHaveLength(2);
    expect(versions[1].active_version).toBe(active);
    if (more === noise) expect(versions[1].evaluation.accuracy).toBeLessThan(0.9);
    const promoted = (await eventsOf(owner.id, "head.promoted")).map(({ data }) => data.version);
    expect(promoted).toEqual(active === 2 ? [1, 2] : [1]);
    // Promoted or not, its examples are no longer new.
    expect((await policyOf(owner)).new_examples).toBe(0);
  });

  test("is promoted where nothing is active", async () => {
    const owner = await newTenant();
    await call("POST", "/v1/datasets", owner.key, { name: "tickets", task: "single_label", modality: "text" });
    await add(owner, tickets());
    await call("POST", "/v1/heads", owner.key, { name: "support", dataset: "tickets", promote: false });
    await setPolicy(owner, { retrain_after_examples: 1 });
    await add(owner, fresh(1));
    expect((await settled(owner)).at(-1)).toMatchObject({ version: 2, active_version: 2 });
  });
});

describe("a retraining that fails", () => {
  test("for good is told of, and is not tried again until there are as many examples once more", async () => {
    const owner = await withHead({ retrain_after_examples: 2 });
    for (const { id, label } of (await call("GET", "/v1/datasets/tickets/examples?limit=100", owner.key)).json.data)
      if (label !== "login") await call("DELETE", `/v1/datasets/tickets/examples/${id}`, owner.key);
    await teach(owner, fresh(2));
    expect(await settled(owner)).toHaveLength(1);
    const [event, ...others] = await eventsOf(owner.id, "head.failed");
    expect(others).toEqual([]);
    const reason = { code: "too_few_labels", message: expect.any(String) };
    expect(event?.data).toEqual({ id: "support", object: "head", version: 1, reason });
    expect(await policyOf(owner)).toMatchObject({ last_failure: reason, new_examples: 0, retraining: false });
    await teach(owner, fresh(1));
    await settled(owner);
    expect(await eventsOf(owner.id, "head.failed")).toHaveLength(1);
    await teach(owner, fresh(1));
    await settled(owner);
    expect(await eventsOf(owner.id, "head.failed")).toHaveLength(2);
    await teach(owner, fresh(2, "billing"));
    expect(await settled(owner)).toHaveLength(2);
    expect((await policyOf(owner)).last_failure).toBeNull();
  });

  test("for now is tried again later, and requests do not hurry it", async () => {
    const owner = await withHead({ retrain_after_examples: 1, promote: "always" });
    const release = holdTrainings();
    try {
      await teach(owner, fresh(1));
      await training(owner);
      await vi.waitUntil(async () => !(await policyOf(owner)).retraining, { timeout: 20_000, interval: 100 });
    } finally {
      release();
    }
    await teach(owner, fresh(1));
    const [due] = await dueOf(owner.id, "retrain");
    expect(due?.run_at).toBeGreaterThan(Date.now() + 3_000);
    expect(await eventsOf(owner.id, "head.failed")).toEqual([]);
    await inLedger(owner.id, (storage) => {
      storage.sql.exec("UPDATE head_learning SET state = json_set(state, '$.nextAt', 0)");
      storage.sql.exec("UPDATE due SET run_at = 1 WHERE kind = 'retrain'");
      return arm(storage);
    });
    const versions = await settled(owner);
    expect(versions.map(({ dataset }) => dataset.examples)).toEqual([18, 20]);
  });

  test("five times in a row, or is lost as often, is given up", async () => {
    const failure = { code: "backend_unavailable", message: "It was down.", retryAfter: 1 } as const;
    for (const lost of [false, true]) {
      const owner = await withHead({});
      await add(owner, fresh(1));
      await inLedger(owner.id, ({ sql }) => {
        sql.exec("UPDATE head_learning SET policy = json_set(policy, '$.retrain_after_examples', 1)");
        const waits: (number | null)[] = [];
        let now = Date.now();
        for (let i = 0; i < 5; i++) {
          const begun = beginRetraining(sql, "support", now);
          expect(begun).toEqual({ attempt: i + 1 });
          // One that is under way, or waits, is not begun again before its time.
          const next = lost
            ? beginRetraining(sql, "support", now - 1)
            : failRetraining(sql, "support", i + 1, failure, now);
          waits.push(typeof next === "number" ? next - now : null);
          if (typeof next === "number") now = next;
        }
        if (lost) expect(beginRetraining(sql, "support", now)).toBeNull();
        expect(waits.slice(0, 4)).toEqual([10_000, 40_000, 160_000, 640_000]);
        expect(beginRetraining(sql, "support", now)).toBeNull();
        expect(getPolicy(sql, "support")).toMatchObject({ ok: true, value: { new_examples: 0, retraining: false } });
      });
      const told = await eventsOf(owner.id, "head.failed");
      expect(told.map(({ data }) => data.reason.code)).toEqual([lost ? "internal_error" : failure.code]);
    }
  });
});

test("a retraining that was lost and is no longer wanted ends", async () => {
  const owner = await withHead({});
  await add(owner, fresh(1));
  const setAfter = (after: number) =>
    inLedger(owner.id, ({ sql }) => {
      sql.exec("UPDATE head_learning SET policy = json_set(policy, '$.retrain_after_examples', ?)", after);
      return beginRetraining(sql, "support", Date.now());
    });
  expect(await setAfter(1)).toEqual({ attempt: 1 });
  expect((await policyOf(owner)).retraining).toBe(true);
  expect(await setAfter(100)).toBeNull();
  expect((await policyOf(owner)).retraining).toBe(false);
});

describe("what is deleted in between", () => {
  test.each<[string, (owner: Owner) => Promise<unknown>]>([
    ["the head", ({ key }) => call("DELETE", "/v1/heads/support", key)],
    ["the data set", ({ key }) => call("DELETE", "/v1/datasets/tickets", key)],
    ["the tenant", ({ id }) => call("DELETE", `/v1/admin/tenants/${id}`, env.ADMIN_KEY)],
  ])("%s: nothing comes of the training that was under way", async (what, remove) => {
    const owner = await withHead({ retrain_after_examples: 1, promote: "always" });
    const release = holdTrainings();
    await teach(owner, fresh(1));
    await training(owner);
    await remove(owner);
    release();
    if (what === "the tenant") {
      await vi.waitUntil(async () => {
        const { json } = await call("GET", `/v1/admin/tenants/${owner.id}`, env.ADMIN_KEY);
        return json.status === "deleted";
      }, PATIENCE);
      return;
    }
    if (what === "the data set") {
      expect(await settled(owner)).toHaveLength(1);
      expect(await policyOf(owner)).toMatchObject({ retraining: false, new_examples: 0, last_failure: null });
    }
    await vi.waitUntil(async () => (await dueOf(owner.id, "retrain")).length === 0, PATIENCE);
    if (what === "the head") {
      expectRefused(await call("GET", "/v1/heads/support", owner.key), 404, "not_found");
      expect(await inLedger(owner.id, ({ sql }) => sql.exec("SELECT * FROM head_learning").toArray())).toEqual([]);
      // A head of the same name begins anew.
      await call("POST", "/v1/heads", owner.key, { name: "support", dataset: "tickets" });
      expect(await policyOf(owner)).toMatchObject({ retrain_after_examples: null, last_failure: null });
    }
    expect(await eventsOf(owner.id, "head.failed")).toEqual([]);
  });
});

describe("the route that the ledger calls", () => {
  const retrain = (head: string, token?: string) =>
    SELF.fetch(`http://graft.test/internal/heads/${head}/retrain`, {
      method: "POST",
      headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
    });
  const codeOf = async (response: Response) => (await response.json<{ error: { code: Code } }>()).error.code;

  test("takes the token of this head alone, and has no effect but of the current attempt", async () => {
    const owner = await withHead({ retrain_after_examples: 100 });
    const of = { tenant: owner.id, head: "support", attempt: 1 };
    const good = makeRetrainingToken(env.SERVER_KEY, of);
    for (const [head, token] of [
      ["support", undefined],
      ["support", owner.key],
      ["support", makeRetrainingToken("another key", of)],
      ["support", `${good.slice(0, -1)}${good.endsWith("0") ? 1 : 0}`],
      ["support", makeRetrainingToken(env.SERVER_KEY, { ...of, head: "other" })],
      ["other", good],
    ] as const) {
      const refused = await retrain(head, token);
      expect([refused.status, await codeOf(refused)]).toEqual([401, "invalid_api_key"]);
    }
    for (const attempt of [1, 2]) {
      const late = await retrain("support", makeRetrainingToken(env.SERVER_KEY, { ...of, attempt }));
      expect([late.status, await codeOf(late)]).toEqual([409, "attempt_ended"]);
    }
    const nobody = await retrain("support", makeRetrainingToken(env.SERVER_KEY, { ...of, tenant: "nobody" }));
    expect([nobody.status, await codeOf(nobody)]).toEqual([404, "not_found"]);
    expect(await settled(owner)).toHaveLength(1);
  });

  test("trains once for an attempt, however often it is called; an older one's version is not taken", async () => {
    const owner = await withHead({});
    await add(owner, fresh(1));
    const begin = () =>
      inLedger(owner.id, ({ sql }) => {
        sql.exec("UPDATE head_learning SET policy = json_set(policy, '$.retrain_after_examples', 1)");
        return beginRetraining(sql, "support", Date.now() + 3_600_000);
      });
    const token = (attempt: number) =>
      makeRetrainingToken(env.SERVER_KEY, { tenant: owner.id, head: "support", attempt });
    expect(await begin()).toEqual({ attempt: 1 });
    const release = holdTrainings();
    const older = retrain("support", token(1));
    await scheduler.wait(50);
    await inLedger(owner.id, ({ sql }) => sql.exec("UPDATE head_learning SET state = json_set(state, '$.nextAt', 0)"));
    expect(await begin()).toEqual({ attempt: 2 });
    release();
    expect([(await older).status, await codeOf(await older)]).toEqual([409, "attempt_ended"]);
    const [one, two] = await Promise.all([retrain("support", token(2)), retrain("support", token(2))]);
    expect([one.status, two.status].toSorted()).toEqual([200, 409]);
    expect(await settled(owner)).toHaveLength(2);
  });
});
