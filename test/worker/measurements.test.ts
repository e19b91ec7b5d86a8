/** Jobs that measure for a recommendation: what they are, what of them is seen, and what they make of it. */
import { env } from "cloudflare:workers";
import { expect, test } from "vitest";
import type { RecommendationParams } from "../../src/api/recommendations.ts";
import type { ErrorCode } from "../../src/core/failure.ts";
import { encodeJobState, newJobState } from "../../src/core/lifecycle/job.ts";
import { limits } from "../../src/core/limits.ts";
import type { Submission } from "../../src/jobs/protocol.ts";
import { getLedger } from "../../src/tenant/tenant.ts";
import { resolveMeasurement } from "../../src/training/measurement.ts";
import { call, newTenant } from "./api.ts";
import {
  acknowledge,
  attemptClient,
  comparisons,
  fakeEndpoint,
  inLedger,
  listDueTasks,
  mockBatchEndpoint,
  respond,
  waitForSubmission,
} from "./fake-batch-endpoint.ts";
import { makeRecommendation } from "./recommendation.ts";

mockBatchEndpoint();

const cost = { operations: 12_000_000, milliseconds: 2_500 };
const evaluated = (judgement: object = comparisons.better) => ({ type: "evaluated", judgement, cost });

/** A tenant with a dataset of so many tickets. */
async function newTenantWithDataset(count = 200) {
  const tenant = await newTenant();
  await call("POST", "/v1/datasets", tenant.key, { name: "tickets", task: "single_label", modality: "text" });
  const examples = Array.from({ length: count }, (_, i) => ({
    text: `ticket ${i} about ${i % 2}`,
    label: ["money", "travel"][i % 2],
  }));
  const added = await call("POST", "/v1/datasets/tickets/examples", tenant.key, { examples });
  expect(added.status, added.text).toBe(200);
  return { ...tenant, examples: count, ledger: getLedger(env.TENANT, tenant.id) };
}
type TenantWithDataset = Awaited<ReturnType<typeof newTenantWithDataset>>;

const resolve = (tenant: string, params: Partial<RecommendationParams> = {}, revision = 1, bindings = env) =>
  resolveMeasurement(
    {
      env: bindings as Cloudflare.Env,
      tenant,
      signal: new AbortController().signal,
      waitUntil: () => undefined,
      setLogFields: () => undefined,
    },
    { dataset: "tickets", backbone: "text-static-1", ...params },
    revision,
  );

let recommendations = 0;

async function recommend(
  { id, ledger, examples }: TenantWithDataset,
  budget: RecommendationParams["budget"] = undefined,
) {
  const measurement = await resolve(id, { budget });
  const dataset = await ledger.findDataset("tickets");
  if (!measurement.ok || !dataset.ok) throw new Error("There is nothing to measure.");
  const { name, revision } = dataset.value;
  const record = makeRecommendation(`rec_${++recommendations}`, { name, revision, examples });
  return ledger.addMeasuredRecommendation(null, dataset.value.id, record, measurement.value);
}

/** A recommendation that is measured, and an attempt at each of its jobs, by the size of the sample. */
async function startMeasuring(tenant: TenantWithDataset) {
  const count = fakeEndpoint(tenant.id).submissions.length;
  const added = await recommend(tenant);
  if (!added.ok) throw new Error(added.failure.message);
  const submissions: Submission[] = [];
  for (const i of [1, 2, 3]) submissions.push(await waitForSubmission(tenant.id, count + i));
  const attempts = new Map(submissions.map((each) => [each.sample, attemptClient(each)]));
  const attemptOf = (sample: number) => {
    const attempt = attempts.get(sample);
    if (attempt === undefined) throw new Error(`No attempt has ${sample} examples.`);
    return attempt;
  };
  const read = async () => {
    const found = await tenant.ledger.getRecommendation(added.value.id);
    return found.ok ? found.value : null;
  };
  return { submissions, attemptOf, read, recommendation: added.value };
}

const listJobRows = (tenant: string) =>
  inLedger(tenant, ({ sql }) => sql.exec<{ id: string; status: string }>("SELECT id, status FROM jobs").toArray());
const countRows = (tenant: string, table: string) =>
  inLedger(tenant, ({ sql }) => sql.exec<{ n: number }>(`SELECT count(*) AS n FROM ${table}`).one().n);

test("both methods are measured on a quarter, a half and all examples, which nobody sees but the recommendation", async () => {
  const tenant = await newTenantWithDataset();
  const eventsBefore = await countRows(tenant.id, "events");
  const { submissions, attemptOf, read, recommendation } = await startMeasuring(tenant);
  expect(recommendation.status).toBe("measuring");
  expect(submissions.map(({ sample }) => sample).toSorted((a, b) => Number(a) - Number(b))).toEqual([50, 100, 200]);
  expect(submissions[0]).toMatchObject({
    trainable: "all",
    comparison: "cross_fit",
    backbone: { id: "text-static-1" },
  });
  const { id, key } = tenant;
  const path = `/v1/fine_tuning/jobs/${submissions[0]?.id}`;
  expect((await call("GET", "/v1/fine_tuning/jobs", key)).json.data).toEqual([]);
  for (const suffix of ["", "/events", "/checkpoints"])
    expect((await call("GET", path + suffix, key)).status).toBe(404);
  for (const command of ["cancel", "pause", "resume"])
    expect((await call("POST", `${path}/${command}`, key)).status).toBe(404);
  const usage = await tenant.ledger.usage();
  expect(usage.ok && usage.value.active_jobs).toBe(3);

  // In any order, and with progress before.
  const progress = { type: "progress", step: 1, message: "Read 100 examples.", metrics: {} };
  await attemptOf(100).sendAcceptedMessage(progress as never);
  expect((await attemptOf(100).fetchData()).length).toBe(201);
  const directive = await attemptOf(200).sendAcceptedMessage(evaluated() as never);
  expect(directive).toMatchObject({ directive: "end", refit: null });
  const point = { head_accuracy: 0.8, fine_tuned_accuracy: 0.96, test_examples: 50, seconds: 2.5 };
  expect(await read()).toMatchObject({
    status: "measuring",
    measured: { job_seconds: 2.5, points: [{ ...point, examples: 200, expected_gain: expect.closeTo(0.16) }] },
  });
  // What comes again, or later, finds the attempt over.
  for (const message of [evaluated(), evaluated(comparisons.not_better), { type: "heartbeat" }])
    expect((await attemptOf(200).tell(message)).json.error.code).toBe("attempt_ended" satisfies ErrorCode);
  await attemptOf(50).sendAcceptedMessage(evaluated(comparisons.not_better) as never);
  await attemptOf(100).sendAcceptedMessage(evaluated(comparisons.inconclusive) as never);
  const settled = await read();
  expect(settled).toMatchObject({
    status: "complete",
    recommendation: "fine_tune",
    runner_up: "head",
    reasons: [{ code: "measured", evidence: { examples: 200 } }, { code: "unknown" }],
    measured: { job_seconds: 7.5, points: [{ examples: 50 }, { examples: 100 }, { examples: 200 }] },
    expected: { head: { accuracy: 0.8 }, fine_tune: { accuracy: 0.96 } },
    comparison: {
      data_requirements: { head: { learning_curve: [{}, {}, {}], examples_per_class: { min: 1 } } },
      compute_cost: { fine_tune: { measured: { operations: 12_000_000, seconds: 2.5, usd: 2.5 * 0.00002 } } },
    },
  });
  // Nothing of it is left but the recommendation.
  expect(await listJobRows(id)).toEqual([]);
  expect(await countRows(id, "job_events")).toBe(0);
  expect(await countRows(id, "events")).toBe(eventsBefore);
  for (const table of ["heads", "head_versions", "backbones"]) expect(await countRows(id, table)).toBe(0);
  expect((await attemptOf(50).tell(evaluated())).json.error.code).toBe("not_found" satisfies ErrorCode);
  expect(await read()).toEqual(settled);
});

test("jobs that fail leave the points of the others, and where all fail the recommendation has failed", async () => {
  const tenant = await newTenantWithDataset();
  const some = await startMeasuring(tenant);
  const failure = { type: "failed", message: "The data are invalid.", retryable: false } as const;
  await some.attemptOf(200).sendAcceptedMessage(failure);
  await some.attemptOf(100).sendAcceptedMessage(failure);
  expect(await some.read()).toMatchObject({ status: "measuring" });
  await some.attemptOf(50).sendAcceptedMessage(evaluated(comparisons.not_better) as never);
  expect(await some.read()).toMatchObject({
    status: "complete",
    recommendation: "head",
    measured: { points: [{ examples: 50 }] },
  });
  const none = await startMeasuring(tenant);
  await none.attemptOf(50).sendAcceptedMessage(failure);
  // An endpoint that knows no samples, and one that could compare nothing.
  await none.attemptOf(100).sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better });
  const nothing = { test_examples: 0, head_accuracy: 0, fine_tuned_accuracy: 0, only_head: 0, only_fine_tuned: 0 };
  await none.attemptOf(200).sendAcceptedMessage(evaluated(nothing) as never);
  expect(await none.read()).toMatchObject({
    status: "failed",
    recommendation: null,
    error: { code: "not_available" satisfies ErrorCode, message: expect.stringMatching(/older build/) },
  });
  expect(await none.read()).not.toHaveProperty("measured");
  expect(await listJobRows(tenant.id)).toEqual([]);
});

test("a dataset that is deleted ends its measurement, at the batch endpoint too", async () => {
  const tenant = await newTenantWithDataset();
  const { attemptOf, read, submissions } = await startMeasuring(tenant);
  await attemptOf(50).sendAcceptedMessage(evaluated() as never);
  fakeEndpoint(tenant.id).onStop = acknowledge("stopping", 202);
  expect((await call("DELETE", "/v1/datasets/tickets", tenant.key)).status).toBe(200);
  expect(await read()).toBe(null);
  // They are known until they are stopped.
  expect((await listJobRows(tenant.id)).map(({ status }) => status)).toEqual(["cancelled", "cancelled"]);
  expect((await attemptOf(100).tell(evaluated())).json.error.code).toBe("attempt_ended" satisfies ErrorCode);
  await inLedger(tenant.id, (_, instance) => instance.alarm());
  const { stops } = fakeEndpoint(tenant.id);
  const large = submissions.filter(({ sample }) => sample !== 50).map(({ id }) => id);
  expect(new Set(stops.map(({ text }) => JSON.parse(text).id))).toEqual(new Set(large));
  expect((await attemptOf(100).tell({ type: "stopped" })).json.error.code).toBe("attempt_ended" satisfies ErrorCode);
  fakeEndpoint(tenant.id).onStop = acknowledge("ended");
  await inLedger(tenant.id, async ({ sql }, instance) => {
    sql.exec("UPDATE due SET run_at = 1 WHERE kind = 'job'");
    await instance.alarm();
  });
  expect(await listJobRows(tenant.id)).toEqual([]);
  expect(await listDueTasks(tenant.id, "job")).toEqual([]);
});

test("a measurement that the batch endpoint never takes is given up", async () => {
  const tenant = await newTenantWithDataset();
  fakeEndpoint(tenant.id).onSubmit = respond(503);
  const added = await recommend(tenant);
  if (!added.ok) throw new Error(added.failure.message);
  await inLedger(tenant.id, async ({ sql }, instance) => {
    sql.exec("UPDATE due SET run_at = 1 WHERE kind IN ('job', 'end_measurement')");
    await instance.alarm();
    sql.exec("UPDATE due SET run_at = 1 WHERE kind IN ('job', 'end_measurement')");
    await instance.alarm();
  });
  expect(await tenant.ledger.getRecommendation(added.value.id)).toMatchObject({
    value: { status: "failed", error: { code: "backend_timeout" satisfies ErrorCode } },
  });
  expect((await listJobRows(tenant.id)).filter(({ status }) => status !== "cancelled")).toEqual([]);
  expect(await listDueTasks(tenant.id, "end_measurement")).toEqual([]);
});

test("a measurement of a recommendation that is gone changes nothing", async () => {
  const tenant = await newTenantWithDataset();
  const { attemptOf, read } = await startMeasuring(tenant);
  await inLedger(tenant.id, ({ sql }) => void sql.exec("DELETE FROM recommendations"));
  for (const sample of [50, 100, 200]) await attemptOf(sample).sendAcceptedMessage(evaluated() as never);
  expect(await read()).toBe(null);
  expect(await listJobRows(tenant.id)).toEqual([]);
});

test("a budget takes the samples that fit into it, and one that is too small fails the recommendation", async () => {
  const tenant = await newTenantWithDataset();
  fakeEndpoint(tenant.id).onSubmit = respond(429, "", { "retry-after": "600" });
  const estimates = () =>
    inLedger(tenant.id, ({ sql }) =>
      sql
        .exec<{ n: number; seconds: number }>(
          "SELECT json_extract(spec, '$.measurement.examples') AS n, json_extract(spec, '$.estimate.operations') / 12e9 AS seconds FROM jobs ORDER BY n",
        )
        .toArray(),
    );
  expect((await recommend(tenant)).ok).toBe(true);
  const all = await estimates();
  expect(all.map(({ n }) => n)).toEqual([50, 100, 200]);
  const [small = 0, medium = 0] = all.map(({ seconds }) => seconds);
  await inLedger(tenant.id, ({ sql }) => void sql.exec("DELETE FROM jobs"));
  await recommend(tenant, { seconds: 1.01 * (small + medium) });
  expect((await estimates()).map(({ n }) => n)).toEqual([50, 100]);
  await inLedger(tenant.id, ({ sql }) => void sql.exec("DELETE FROM jobs"));
  await recommend(tenant, { usd: 1.01 * small * 0.00002, seconds: 600 });
  expect((await estimates()).map(({ n }) => n)).toEqual([50]);
  const tooSmall = await recommend(tenant, { seconds: small / 2 });
  expect(tooSmall).toMatchObject({
    value: { status: "failed", recommendation: null, error: { code: "limit_exceeded" satisfies ErrorCode } },
  });
  expect((await estimates()).map(({ n }) => n)).toEqual([50]);
  const tiny = await recommend(await newTenantWithDataset(49));
  expect(tiny).toMatchObject({ value: { status: "failed", error: { code: "too_few_examples" satisfies ErrorCode } } });
});

test("a test set is what both methods are compared on, and none of it is trained on", async () => {
  const tenant = await newTenantWithDataset();
  const { id, key, ledger } = tenant;
  await call("POST", "/v1/datasets", key, { name: "held", task: "single_label", modality: "text" });
  const held = ["ticket 0 about 0", "another about 1", "a third about 0"].map((text) => ({ text, label: "money" }));
  await call("POST", "/v1/datasets/held/examples", key, { examples: held });
  const dataset = await ledger.findDataset("tickets");
  const measurement = await resolve(id, { test_dataset: "held" });
  if (!measurement.ok || !dataset.ok) throw new Error("There is nothing to measure.");
  const record = makeRecommendation(`rec_${++recommendations}`, { name: "tickets", revision: 1, examples: 200 });
  await ledger.addMeasuredRecommendation(null, dataset.value.id, record, measurement.value);
  const submissions: Submission[] = [];
  for (const count of [1, 2, 3]) submissions.push(await waitForSubmission(id, count));
  const [first, ...others] = submissions as [Submission, ...Submission[]];
  expect(first).toMatchObject({ comparison: "held_out", sample: expect.any(Number) });
  const lines = (await attemptClient(first).fetchData()).flatMap((line) => ("end" in line ? [] : [line]));
  expect(lines.filter(({ held_out }) => held_out).map(({ text }) => text)).toEqual(held.map(({ text }) => text));
  expect(lines.filter(({ held_out }) => !held_out)).toHaveLength(199);
  await attemptClient(first).sendAcceptedMessage(evaluated() as never);
  // A test set that is gone fails what is still to be measured on it.
  expect((await call("DELETE", "/v1/datasets/held", key)).status).toBe(200);
  for (const other of others)
    expect((await attemptClient(other).callback("GET", "/data")).json.error.code).toBe(
      "attempt_ended" satisfies ErrorCode,
    );
  expect(await ledger.getRecommendation(record.id)).toMatchObject({
    value: { status: "complete", measured: { points: [{ examples: first.sample }] } },
  });
  expect(await resolve(id, { test_dataset: "held" })).toMatchObject({
    failure: { code: "not_found" satisfies ErrorCode, param: "test_dataset" },
  });
});

test("a measurement counts towards the jobs that a tenant may have", async () => {
  const tenant = await newTenantWithDataset();
  fakeEndpoint(tenant.id).onSubmit = respond(429, "", { "retry-after": "600" });
  await inLedger(tenant.id, ({ sql }) => {
    const state = encodeJobState({ ...newJobState("never", Date.now()), status: "paused" });
    for (let i = 0; i < limits.active_jobs - 2; i++)
      sql.exec(
        "INSERT INTO jobs (id, status, spec, state, created_at) VALUES (?, 'paused', '{}', ?, 0)",
        `j${i}`,
        state,
      );
  });
  expect(await recommend(tenant)).toMatchObject({ failure: { code: "limit_exceeded" satisfies ErrorCode } });
  // Nothing of it is stored.
  expect(await countRows(tenant.id, "recommendations")).toBe(0);
  expect(await countRows(tenant.id, "jobs")).toBe(limits.active_jobs - 2);
});

test("nothing is measured without a batch endpoint, without layers to train, and of values", async () => {
  const { id, key } = await newTenantWithDataset(2);
  const { BATCH_URL: _url, BATCH_SECRET: _secret, ...others } = env;
  expect(await resolve(id, {}, 1, others as typeof env)).toMatchObject({
    failure: { code: "not_available" satisfies ErrorCode, param: "measure" },
  });
  expect(await resolve(id, { backbone: "hash-text-1" })).toMatchObject({
    failure: { code: "not_available" satisfies ErrorCode, param: "backbone" },
  });
  expect(await resolve(id, { dataset: "other" })).toMatchObject({
    failure: { code: "not_found" satisfies ErrorCode, param: "dataset" },
  });
  await call("POST", "/v1/datasets", key, { name: "values", task: "regression", modality: "text" });
  expect(await resolve(id, { dataset: "values" }, 0)).toMatchObject({
    failure: { code: "task_mismatch" satisfies ErrorCode, param: "measure" },
  });
});
