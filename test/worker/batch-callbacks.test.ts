/** What a batch endpoint calls: the data that it pulls, the artifacts that it uploads, and what it tells. */
import { createExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, test, vi } from "vitest";
import { encodeHead } from "../../src/core/codec.ts";
import { isHeldOut } from "../../src/core/evaluation/comparison.ts";
import { limits } from "../../src/core/limits.ts";
import { createApp } from "../../src/http/app.ts";
import { MAX_SINGLE_UPLOAD_BYTES, type Message, PART_BYTES } from "../../src/jobs/protocol.ts";
import { makeAttemptToken } from "../../src/jobs/token.ts";
import { sha256Hex } from "../../src/lib/hash.ts";
import { artifactKey } from "../../src/store/keys.ts";
import { linearHead } from "../contract/linear-head.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectError } from "./assertions.ts";
import {
  acknowledge,
  advanceTime,
  attemptClient,
  comparisons,
  type DataLine,
  describeArtifact,
  fakeEndpoint,
  getTrainedHead,
  inLedger,
  listJobEvents,
  listStoredKeys,
  makeManifest,
  mockBatchEndpoint,
  newTenantWithJob,
  startJob,
  uploadFile,
  waitForJob,
  waitForSubmission,
  webhookHeaders,
} from "./fake-batch-endpoint.ts";

const JOBS = "/v1/fine_tuning/jobs";
const PATIENCE = { timeout: 30_000, interval: 10 };
const heartbeat: Message = { type: "heartbeat" };
const progress = (step: number, message = `step ${step}`): Message => ({
  type: "progress",
  step,
  message,
  metrics: {},
});
type Row = Exclude<DataLine, { end: true }>;

mockBatchEndpoint();

/** The rows of a stream, which ends as it says. */
function expectRows(lines: readonly DataLine[], revision: number | null): Row[] {
  expect(lines.at(-1)).toEqual({ end: true, rows: lines.length - 1, revision });
  return lines.slice(0, -1) as Row[];
}

const listMessages = async (key: string, job: string) => (await listJobEvents(key, job)).map(({ message }) => message);
const jobStatus = async (key: string, job: string) => (await call("GET", `${JOBS}/${job}`, key)).json.status;

describe("every call", () => {
  const calls: readonly [string, string, string?][] = [
    ["GET", "/data"],
    ["POST", "/messages", "{}"],
    ["GET", `/artifacts/${"a".repeat(64)}`],
    ["PUT", `/artifacts/${"a".repeat(64)}`, "x"],
    ["POST", `/artifacts/${"a".repeat(64)}/uploads`, '{"bytes":1}'],
    ["PUT", `/artifacts/${"a".repeat(64)}/uploads/u/1`, "x"],
    ["POST", `/artifacts/${"a".repeat(64)}/uploads/u`, '{"parts":[{"part":1,"etag":"x"}]}'],
  ];

  test("is refused without the token of its own job and attempt", async () => {
    const { tenant, key, job, submission } = await newTenantWithJob();
    const other = await startJob({ id: tenant, key });
    const foreign = await newTenantWithJob();
    const { token } = submission;
    const [last = ""] = token.slice(-1);
    const forged = `${token.slice(0, -1)}${last === "0" ? "1" : "0"}`;
    const wrongTokens = {
      none: "",
      forged,
      "another attempt's": makeAttemptToken(env.SERVER_KEY, { tenant, job, attempt: 2 }),
      "another job's": other.submission.token,
      "another tenant's": foreign.submission.token,
      "another tenant's for this job": token.replace(tenant, foreign.tenant),
      "of another server": makeAttemptToken("another key", { tenant, job, attempt: 1 }),
      "an API key": key,
      "with more behind it": `${token}0`,
    };
    for (const [description, wrongToken] of Object.entries(wrongTokens)) {
      for (const [method, suffix, body] of calls) {
        const answer = await attemptClient({ ...submission, token: wrongToken }).callback(method, suffix, body);
        expect(answer.status, `${description}: ${method} ${suffix}`).toBe(401);
        expectError(answer, 401, "invalid_api_key");
      }
    }
    // The path names another attempt or job than the token.
    for (const named of [
      { ...submission, attempt: 2 },
      { ...submission, id: other.job },
    ])
      for (const [method, suffix, body] of calls)
        expectError(await attemptClient(named).callback(method, suffix, body), 401, "invalid_api_key");
    expect((await attemptClient(submission).sendAcceptedMessage(heartbeat)).directive).toBe("continue");
    expect(await listStoredKeys(tenant)).toEqual([]);
  });

  test("of a job that was cancelled is refused, and changes nothing, while its endpoint is told to stop it", async () => {
    const { tenant, key, job, attempt } = await newTenantWithJob();
    const bytes = new Uint8Array([1, 2, 3]);
    const artifact = describeArtifact(bytes);
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(bytes);
    await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better });
    const uploads = `/artifacts/${"b".repeat(64)}/uploads`;
    const length = { "content-length": "11" };
    const upload = (await attempt.callback("POST", uploads, '{"bytes":1}', length)).json.upload_id;
    fakeEndpoint(tenant).onStop = acknowledge("stopping");
    expect((await call("POST", `${JOBS}/${job}/cancel`, key)).json.status).toBe("cancelled");
    await vi.waitUntil(async () => (await listStoredKeys(tenant)).length === 0, PATIENCE);
    const messages = await listMessages(key, job);

    for (const [method, suffix, body = ""] of calls)
      if (suffix !== "/messages")
        expectError(
          await attempt.callback(method, suffix.replace("/u/", `/${upload}/`), body === "" ? undefined : body),
          409,
          "attempt_ended",
        );
    expectError(await attempt.callback("GET", `/artifacts/${artifact.sha256}`), 409, "attempt_ended");
    expectError(await attempt.uploadArtifact(bytes), 409, "attempt_ended");
    const reports: Message[] = [
      heartbeat,
      progress(1),
      { type: "checkpoint", step: 1, artifact, metrics: {} },
      { type: "evaluated", judgement: comparisons.not_better },
      { type: "finished", manifest: makeManifest(trainedHead, "fine_tuned") as never },
      { type: "failed", message: "no", retryable: false },
      { type: "stopped" },
    ];
    for (const report of reports) expectError(await attempt.tell(report), 409, "attempt_ended");
    expect(await listMessages(key, job)).toEqual(messages);
    expect(await listStoredKeys(tenant)).toEqual([]);
    expect((await call("GET", `${JOBS}/${job}/checkpoints`, key)).json.data).toEqual([]);
    expect(await jobStatus(key, job)).toBe("cancelled");
  });

  test("takes a token by the server key before as well", async () => {
    const { tenant, job } = await newTenantWithJob();
    const token = makeAttemptToken(env.PREVIOUS_SERVER_KEY ?? "", { tenant, job, attempt: 1 });
    await attemptClient({ id: job, attempt: 1, token }).sendAcceptedMessage(heartbeat);
  });

  test("of a tenant or a job that never was finds nothing, and makes nothing", async () => {
    const { tenant, submission } = await newTenantWithJob();
    const job = `ftjob-${"0".repeat(32)}`;
    for (const named of [
      { tenant, job, attempt: 1 },
      { tenant: "nobody", job: submission.id, attempt: 1 },
    ]) {
      const attempt = attemptClient({ id: named.job, attempt: 1, token: makeAttemptToken(env.SERVER_KEY, named) });
      expectError(await attempt.callback("GET", "/data"), 404, "not_found");
      expectError(await attempt.tell(heartbeat), 404, "not_found");
      expectError(await attempt.uploadArtifact(new Uint8Array([1])), 404, "not_found");
      expect(await listStoredKeys(named.tenant)).toEqual([]);
    }
  });

  test("is at a path of its own, and not in the interface's document", async () => {
    const { attempt } = await newTenantWithJob();
    expectError(await attempt.callback("GET", "/nothing"), 404, "not_found");
    expectError(await attempt.callback("GET", "/messages"), 405, "method_not_allowed");
    expectError(await attempt.callback("GET", "/artifacts/short"), 404, "not_found");
    const { paths } = (await call("GET", "/openapi.json")).json;
    expect(Object.keys(paths).filter((path) => path.includes("internal"))).toEqual([]);
  });

  test("of an attempt that is over is refused", async () => {
    const { tenant, key, job, attempt } = await newTenantWithJob();
    await attempt.sendAcceptedMessage({ type: "failed", message: "out of memory", retryable: true });
    const nextAttempt = attemptClient(await waitForSubmission(tenant, 2));
    for (const [method, suffix, body] of calls)
      if (method !== "POST" || suffix.includes("artifacts"))
        expectError(await attempt.callback(method, suffix, body), 409, "attempt_ended");
    expectError(await attempt.tell(heartbeat), 409, "attempt_ended");
    await nextAttempt.sendAcceptedMessage(heartbeat);
    expect(await jobStatus(key, job)).toBe("running");
    expect(await listMessages(key, job)).toContain("Attempt 1 was given up: out of memory. Attempt 2 follows.");
  });
});

describe("a message", () => {
  test("is taken where one of the secrets signed it, within five minutes of now", async () => {
    const { key, job, attempt } = await newTenantWithJob();
    const minutes = (count: number) => Date.now() + count * 60_000;
    for (const signing of [{ secret: env.PREVIOUS_BATCH_SECRET ?? "" }, { at: minutes(-4.8) }, { at: minutes(4.8) }])
      await attempt.sendAcceptedMessage(heartbeat, signing);
    const body = JSON.stringify({ id: job, attempt: 1, ...progress(1) });
    const { "webhook-signature": good, ...others } = webhookHeaders(body, { id: "msg_x" });
    const wrongHeaders: Record<string, Record<string, string>> = {
      "with another secret": webhookHeaders(body, { secret: "whsec_c29tZSBvdGhlciBzZWNyZXQgb2YgdGhlIHRlc3Rz" }),
      "too long ago": webhookHeaders(body, { timestamp: minutes(-5.2) }),
      "too far ahead": webhookHeaders(body, { timestamp: minutes(5.2) }),
      "of another body": webhookHeaders(`${body} `, {}),
      "of another id": { ...webhookHeaders(body, {}), "webhook-id": "msg_y" },
      "of another time": { ...webhookHeaders(body, {}), "webhook-timestamp": `${Math.floor(minutes(1) / 1000)}` },
      "without an id": { ...webhookHeaders(body, {}), "webhook-id": "" },
      "with a long id": webhookHeaders(body, { id: "x".repeat(101) }),
      "without a time": { "webhook-id": "msg_x", "webhook-signature": good },
      "with no number as its time": { ...others, "webhook-signature": good, "webhook-timestamp": "now" },
      "without a signature": others,
      "with an empty signature": { ...others, "webhook-signature": "" },
      "with nonsense": { ...others, "webhook-signature": "v1,nonsense v2,x" },
    };
    for (const [what, headers] of Object.entries(wrongHeaders)) {
      const answer = await attempt.callback("POST", "/messages", body, headers);
      expect(answer.status, what).toBe(401);
      expectError(answer, 401, "invalid_signature");
    }
    expect(await listMessages(key, job)).not.toContain("step 1");
    const several = { ...others, "webhook-signature": `v1,bm90IHRoaXMgb25l ${good}` };
    expect((await attempt.callback("POST", "/messages", body, several)).status).toBe(200);
    expect(await listMessages(key, job)).toContain("step 1");
  });

  test("is refused by an instance without secrets", async () => {
    const { attempt, submission } = await newTenantWithJob();
    const body = JSON.stringify({ id: submission.id, attempt: 1, ...heartbeat });
    const request = new Request(`http://graft.test${attempt.path}/messages`, {
      method: "POST",
      headers: {
        authorization: `Bearer ${submission.token}`,
        "content-length": `${body.length}`,
        ...webhookHeaders(body, {}),
      },
      body,
    });
    const { BATCH_SECRET: _now, PREVIOUS_BATCH_SECRET: _before, ...others } = env;
    const response = await createApp().fetch(request, others as Cloudflare.Env, createExecutionContext());
    expect(response.status).toBe(401);
    expect(await response.json()).toMatchObject({ error: { code: "invalid_signature" } });
  });

  test("that comes again under its id is refused and has no effect, for as long as its signature is good", async () => {
    const { tenant, key, job, attempt } = await newTenantWithJob();
    await attempt.sendAcceptedMessage(progress(1), { id: "msg_replayed" });
    expectError(await attempt.tell(progress(2), { id: "msg_replayed" }), 409, "message_replayed");
    expectError(
      await attempt.tell({ type: "failed", message: "x", retryable: false }, { id: "msg_replayed" }),
      409,
      "message_replayed",
    );
    expect(await listMessages(key, job)).not.toContain("step 2");
    expect(await jobStatus(key, job)).toBe("running");
    await advanceTime(tenant, 55);
    await attempt.sendAcceptedMessage(heartbeat);
    expectError(await attempt.tell(heartbeat, { id: "msg_replayed" }), 409, "message_replayed");
    await inLedger(tenant, ({ sql }) => sql.exec("UPDATE batch_messages SET received_at = received_at - 601"));
    await attempt.sendAcceptedMessage(heartbeat);
    const { n } = await inLedger(tenant, ({ sql }) =>
      sql.exec<{ n: number }>("SELECT count(*) AS n FROM batch_messages").one(),
    );
    expect(n).toBe(1);
  });

  test("told twice, or late, has the effect of once", async () => {
    const { id, tenant, key, job, attempt } = await newTenantWithJob({ head: "support" });
    for (const step of [3, 2, 3, 1, 2]) await attempt.sendAcceptedMessage(progress(step, `step ${step}`));
    const artifact = { sha256: "a".repeat(64), bytes: 1 };
    for (const _ of [1, 2])
      await attempt.sendAcceptedMessage({ type: "checkpoint", step: 3, artifact, metrics: { loss: 1 } });
    for (const _ of [1, 2])
      expect(await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better })).toEqual({
        object: "batch.directive",
        directive: "continue",
        refit: "fine_tuned",
      });
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(trainedHead.bytes);
    const finishedMessage: Message = { type: "finished", manifest: makeManifest(trainedHead, "fine_tuned") as never };
    const responses = await Promise.all([
      attempt.tell(finishedMessage),
      attempt.tell(finishedMessage),
      attempt.tell(finishedMessage),
    ]);
    expect(responses.map(({ status }) => status).toSorted()).toEqual([200, 409, 409]);
    for (const lateMessage of [
      finishedMessage,
      heartbeat,
      progress(9),
      { type: "checkpoint", step: 9, artifact, metrics: {} },
    ])
      expectError(await attempt.tell(lateMessage), 409, "attempt_ended");
    expect((await call("GET", "/v1/heads/support/versions", key)).json.data).toHaveLength(1);
    expect(await listMessages(key, job)).toEqual([
      "The job was created.",
      "The examples are valid, and the job is queued.",
      "Attempt 1 is running at the batch endpoint.",
      "step 3",
      "step 2",
      "step 1",
      "On 50 held-out examples the frozen head has 0.800, the fine-tuned model 0.960: better (expected gain 0.160, chance of a loss 0.005). The fine-tuned model is kept, and the frozen head is not.",
      "The job has made version 1, which is active now.",
    ]);
    expect((await call("GET", `${JOBS}/${job}/checkpoints`, key)).json.data).toHaveLength(1);
    expect(id).toBe(tenant);
  });

  test("of a finish before the judgement, or with the loser, is refused, and the attempt may go on", async () => {
    const { key, job, attempt } = await newTenantWithJob();
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(trainedHead.bytes);
    const finishAttempt = (candidate: "head" | "fine_tuned") =>
      attempt.tell({ type: "finished", manifest: makeManifest(trainedHead, candidate) });
    for (const candidate of ["head", "fine_tuned"] as const)
      expectError(await finishAttempt(candidate), 422, "invalid_artifact", "manifest.candidate");
    await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.not_better });
    expectError(await finishAttempt("fine_tuned"), 422, "invalid_artifact", "manifest.candidate");
    expect(await jobStatus(key, job)).toBe("running");
    expect((await finishAttempt("head")).json.directive).toBe("end");
    expect(await jobStatus(key, job)).toBe("succeeded");
  });

  test("of a finish of a job that is to pause, or was cancelled, makes nothing", async () => {
    for (const command of ["pause", "cancel"]) {
      const owner = await newTenantWithJob({ head: "support" });
      const { key, job, attempt, tenant } = owner;
      const trainedHead = await getTrainedHead();
      await attempt.uploadArtifact(trainedHead.bytes);
      await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.not_better });
      // The endpoint does not say that it has stopped.
      fakeEndpoint(tenant).onStop = acknowledge("stopping");
      await call("POST", `${JOBS}/${job}/${command}`, key);
      const answer = await attempt.tell({ type: "finished", manifest: makeManifest(trainedHead) });
      if (command === "cancel") expectError(answer, 409, "attempt_ended");
      else expect([answer.status, answer.json?.directive], answer.text).toEqual([200, "pause"]);
      expectError(await call("GET", "/v1/heads/support", key), 404, "not_found");
    }
  });

  test.each<[string, (job: string) => unknown, string, string | null]>([
    ["of another job", () => ({ id: `ftjob-${"0".repeat(32)}`, attempt: 1, ...heartbeat }), "invalid_parameter", "id"],
    ["of another attempt", (id) => ({ id, attempt: 2, ...heartbeat }), "invalid_parameter", "id"],
    ["without a job", () => ({ attempt: 1, ...heartbeat }), "missing_parameter", "id"],
    ["without an attempt", (id) => ({ id, ...heartbeat }), "missing_parameter", "attempt"],
    ["without a type", (id) => ({ id, attempt: 1 }), "missing_parameter", "type"],
    ["of an unknown type", (id) => ({ id, attempt: 1, type: "done" }), "invalid_parameter", "type"],
    ["of no object", () => [], "invalid_parameter", null],
    ["of a step that is none", (id) => ({ id, attempt: 1, ...progress(-1) }), "invalid_parameter", "step"],
    ["of a long text", (id) => ({ id, attempt: 1, ...progress(1, "x".repeat(501)) }), "invalid_parameter", "message"],
    [
      "of metrics that are no numbers",
      (id) => ({ id, attempt: 1, ...progress(1), metrics: { loss: "low" } }),
      "invalid_parameter",
      "metrics.loss",
    ],
    [
      "of too many metrics",
      (id) => ({
        id,
        attempt: 1,
        ...progress(1),
        metrics: Object.fromEntries(Array.from({ length: 101 }, (_, i) => [`m${i}`, i])),
      }),
      "invalid_parameter",
      "metrics",
    ],
    [
      "of a checkpoint without a hash",
      (id) => ({ id, attempt: 1, type: "checkpoint", step: 1, metrics: {}, artifact: { sha256: "x", bytes: 1 } }),
      "invalid_parameter",
      "artifact.sha256",
    ],
    [
      "of a judgement without counts",
      (id) => ({ id, attempt: 1, type: "evaluated", judgement: { ...comparisons.better, only_head: undefined } }),
      "missing_parameter",
      "judgement.only_head",
    ],
    [
      "of a judgement whose gain has a negative error",
      (id) => ({ id, attempt: 1, type: "evaluated", judgement: { ...comparisons.better, gain_error: -0.1 } }),
      "invalid_parameter",
      "judgement.gain_error",
    ],
  ])("%s is refused", async (_what, body, code, param) => {
    const { key, job, attempt } = await newTenantWithJob();
    const before = await listMessages(key, job);
    const answer = await attempt.post(JSON.stringify(body(job)));
    expect(answer.json?.error, answer.text).toMatchObject({ code });
    if (param !== null) expect(answer.json.error.param).toBe(param);
    expect(answer.status).toBe(400);
    expect(await listMessages(key, job)).toEqual(before);
  });

  test("that is no JSON, too large, or of unknown length is refused", async () => {
    const { attempt } = await newTenantWithJob();
    expectError(await attempt.post("{"), 400, "invalid_json");
    expectError(await attempt.post("null"), 400, "invalid_parameter");
    const oversizedBody = await attempt.post(JSON.stringify({ ...heartbeat, more: "x".repeat(2_500_000) }));
    expectError(oversizedBody, 413, "body_too_large");
    expect(oversizedBody.json.error.details).toMatchObject({ limit: 2_500_000 });
    expectError(await attempt.callback("POST", "/messages"), 400, "missing_parameter", "content-length");
  });

  test.each([
    ["small", 0.01, "better", "fine_tuned"],
    ["large", 0.2, "inconclusive", "head"],
  ])("of a gain whose error is %s decides by it, and not by the counts", async (_, gain_error, verdict, refit) => {
    const { key, job, attempt } = await newTenantWithJob();
    const judgement = { ...comparisons.better, only_head: 9, only_fine_tuned: 1, gain_error };
    expect((await attempt.sendAcceptedMessage({ type: "evaluated", judgement })).refit).toBe(refit);
    expect((await call("GET", `${JOBS}/${job}`, key)).json.graft.comparison).toMatchObject({
      verdict,
      expected_gain: expect.closeTo(0.16, 9),
      chance_of_loss: expect.closeTo(gain_error === 0.01 ? 0 : 0.207, 2),
    });
  });

  test("may hold fields that are not known yet", async () => {
    const { job, attempt } = await newTenantWithJob();
    const known = { id: job, attempt: 1, type: "evaluated", judgement: { ...comparisons.better, more: 1 } };
    const answer = await attempt.post(JSON.stringify({ ...known, more: { deep: true } }));
    expect([answer.status, answer.json?.refit], answer.text).toEqual([200, "fine_tuned"]);
  });

  test("of metrics beyond the events that are kept of a job adds none, and the job's own are still told", async () => {
    const { tenant, key, job, attempt } = await newTenantWithJob();
    await inLedger(tenant, ({ sql }) =>
      sql.exec(
        'WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO job_events (job, kind, key, record, created_at) SELECT 1, \'event\', \'k\' || i, \'{"level":"info","message":"m","type":"metrics","data":null}\', 0 FROM n',
        limits.events_per_job - 4,
      ),
    );
    for (const step of [1, 2, 3]) await attempt.sendAcceptedMessage(progress(step));
    await attempt.sendAcceptedMessage({ type: "failed", message: "over", retryable: false });
    const messages = await listMessages(key, job);
    expect(messages.filter((message) => message.startsWith("step"))).toEqual(["step 1"]);
    expect(messages.at(-1)).toBe("over");
  });
});

describe("the data", () => {
  test("is every example with its target, of which the inputs' hashes hold some out, and the end", async () => {
    const { attempt } = await newTenantWithJob();
    const response = await attempt.send("GET", "/data");
    expect(response.headers.get("content-type")).toBe("application/x-ndjson");
    await response.body?.cancel();
    const rows = expectRows(await attempt.fetchData(), 1);
    expect(rows.map(({ text, target }) => ({ text, label: target }))).toEqual(tickets());
    for (const { group, held_out } of rows) {
      expect(group).toMatch(/^[0-9a-f]{32}$/);
      expect(held_out).toBe(isHeldOut(Buffer.from(group, "hex")));
    }
    expect(await attempt.fetchData(), "pulled twice it is the same").toEqual([
      ...rows,
      { end: true, rows: 18, revision: 1 },
    ]);
  });

  test("is of the revision at which the job was made, or that it names, at every attempt", async () => {
    const owner = await newTenant();
    const { key } = owner;
    await call("POST", "/v1/datasets", key, { name: "tickets", task: "single_label", modality: "text" });
    const addLabel = (label: string) => {
      const examples = tickets().map(({ text }, i) => ({ id: `${i}`, text, label: `${label} ${i % 3}` }));
      return call("POST", "/v1/datasets/tickets/examples", key, { examples });
    };
    const labelsOf = async (attempt: Awaited<ReturnType<typeof startJob>>["attempt"], revision: number) =>
      new Set(expectRows(await attempt.fetchData(), revision).map(({ target }) => String(target).split(" ")[0]));
    await addLabel("first");
    const { attempt } = await startJob(owner);
    await addLabel("second");
    const named = await startJob(owner, { dataset_revision: 1 });
    for (const _ of [1, 2]) {
      expect(await labelsOf(attempt, 1)).toEqual(new Set(["first"]));
      expect(await labelsOf(named.attempt, 1)).toEqual(new Set(["first"]));
      await addLabel("third");
    }
    const { data } = (await call("GET", "/v1/datasets/tickets/revisions", key)).json;
    expect(data.filter(({ pinned }: { pinned: boolean }) => pinned)).toMatchObject([{ revision: 1 }]);
    const job = { model: "hash-text-1", trainable: "head", training_file: "dataset:tickets" };
    const unknown = await call("POST", "/v1/fine_tuning/jobs", key, { ...job, dataset_revision: 9 });
    expectError(unknown, 404, "not_found", "dataset_revision");
  });

  test("keeps inputs together that differ in case and spacing alone, and holds the same out as it grows", async () => {
    const owner = await newTenant();
    const { key } = owner;
    await call("POST", "/v1/datasets", key, { name: "tickets", task: "single_label", modality: "text" });
    const addExamples = async (from: number, to: number) => {
      const examples = Array.from({ length: to - from }, (_, i) => ({ text: `Text ${from + i}`, label: `${i % 3}` }));
      await call("POST", "/v1/datasets/tickets/examples", key, { examples });
    };
    await addExamples(0, 300);
    const first = expectRows(await (await startJob(owner)).attempt.fetchData(), 1);
    const heldOutShare = first.filter(({ held_out }) => held_out).length / 300;
    expect(heldOutShare).toBeGreaterThan(0.1);
    expect(heldOutShare).toBeLessThan(0.3);
    await addExamples(300, 400);
    const doubles = Array.from({ length: 300 }, (_, i) => ({ text: `  tEXT   ${i} `, label: "again" }));
    await call("POST", "/v1/datasets/tickets/examples", key, { examples: doubles });
    const second = expectRows(await (await startJob(owner)).attempt.fetchData(), 3);
    expect(second.slice(0, 300)).toEqual(first);
    expect(second).toHaveLength(700);
    const groups = new Map(first.map(({ group, held_out }) => [group, held_out]));
    expect(groups.size).toBe(300);
    for (const [i, { group, held_out, target }] of second.slice(400).entries())
      expect([group, held_out, target]).toEqual([first[i]?.group, first[i]?.held_out, "again"]);
  });

  test("comes in as many pages of the ledger as it takes", async () => {
    const owner = await newTenant();
    await call("POST", "/v1/datasets", owner.key, { name: "tickets", task: "regression", modality: "text" });
    const lines = Array.from({ length: 5300 }, (_, i) =>
      JSON.stringify({ text: i < 40 ? `${i} `.padEnd(32_000, "long ") : `${i}`, value: i / 2 }),
    );
    const headers = { "content-type": "application/x-ndjson" };
    const imported = await call("POST", "/v1/datasets/tickets/examples", owner.key, lines.join("\n"), headers);
    expect(imported.json).toMatchObject({ added: 5300 });
    const { attempt } = await startJob(owner);
    const rows = expectRows(await attempt.fetchData(), 1);
    expect(rows.map(({ target }) => target)).toEqual(lines.map((_, i) => i / 2));
    expect(rows[39]?.text).toHaveLength(32_000);
  });

  test("of embeddings is 32-bit floats, as they are stored", async () => {
    const owner = await newTenant();
    await call("POST", "/v1/datasets", owner.key, {
      name: "points",
      task: "multi_label",
      modality: "embedding",
      dimensions: 3,
    });
    const examples = [
      { embedding: [1, -0.5, 1e-3], labels: ["b", "a"] },
      { embedding: [0, 2, 3], labels: [] },
    ];
    await call("POST", "/v1/datasets/points/examples", owner.key, { examples });
    const file = await uploadFile(examples, owner.key);
    for (const [training_file, revision] of [
      ["dataset:points", 1],
      [file, null],
    ] as const) {
      const { attempt } = await startJob(owner, { model: "embedding", training_file });
      const rows = expectRows(await attempt.fetchData(), revision);
      const floats = rows.map(({ embedding = "" }) => [
        ...new Float32Array(Uint8Array.from(Buffer.from(embedding, "base64")).buffer),
      ]);
      expect(floats).toEqual(examples.map(({ embedding }) => embedding.map(Math.fround)));
      expect(rows.map(({ target }) => [target].flat().toSorted())).toEqual([["a", "b"], []]);
      expect(rows.some((row) => "text" in row)).toBe(false);
    }
  });

  test("of a file, chats among them, is as that of a data set", async () => {
    const owner = await tenantWithTickets();
    const chats = tickets().map(({ text, label }, i) =>
      i % 2
        ? { text, label }
        : {
            messages: [
              { role: "user", content: text },
              { role: "assistant", content: label },
            ],
          },
    );
    const { attempt } = await startJob(owner, { training_file: await uploadFile(chats, owner.key) });
    const ofDataset = expectRows(await (await startJob(owner)).attempt.fetchData(), 1);
    for (const { id } of ofDataset) expect(id).toMatch(/^ex_/);
    expect(ofDataset.map(({ position }) => position)).toEqual([...ofDataset.keys()]);
    const ofFile = ofDataset.map(({ id: _id, position: _position, ...row }) => row);
    expect(expectRows(await attempt.fetchData(), null)).toEqual(ofFile);
  });

  test.each([2, 999, 1000, 1001, 2000])(
    "holds out a validation file of %i examples, and trains on none of them",
    async (count) => {
      const owner = await tenantWithTickets();
      const { key } = owner;
      const validationRows = Array.from({ length: count }, (_, i) => ({ text: `Held ${i}`, label: `${i % 2}` }));
      const validation_file = await uploadFile(validationRows, key);
      const duplicateRows = validationRows
        .slice(0, 5)
        .map(({ text }) => ({ text: ` ${text.toUpperCase()}`, label: "z" }));
      await call("POST", "/v1/datasets/tickets/examples", key, { examples: duplicateRows });
      const training_file = await uploadFile([...duplicateRows, ...tickets()], key);
      for (const [source, revision] of [
        ["dataset:tickets", 2],
        [training_file, null],
      ] as const) {
        const { attempt, submission } = await startJob(owner, { training_file: source, validation_file });
        expect(submission.comparison).toBe("held_out");
        const rows = expectRows(await attempt.fetchData(), revision);
        expect(rows.filter(({ held_out }) => held_out).map(({ text, target }) => ({ text, label: target }))).toEqual(
          validationRows,
        );
        const trainingRows = rows.filter(({ held_out }) => !held_out);
        const expectedRows = count < 5 ? [...tickets(), ...duplicateRows.slice(count)] : tickets();
        expect(trainingRows.map(({ text }) => text).toSorted()).toEqual(
          expectedRows.map(({ text }) => text).toSorted(),
        );
      }
    },
  );

  test("of a file whose row was lost is gone, and its job has failed", async () => {
    const owner = await tenantWithTickets();
    const file = await uploadFile(tickets(), owner.key);
    for (const body of [{ training_file: file }, { validation_file: file }]) {
      const secondFile = await uploadFile(tickets(), owner.key);
      const named = Object.fromEntries(Object.keys(body).map((field) => [field, secondFile]));
      const { attempt, job } = await startJob(owner, named);
      await inLedger(owner.id, ({ sql }) => sql.exec("DELETE FROM files WHERE id = ?", secondFile));
      expectError(await attempt.callback("GET", "/data"), 409, "attempt_ended");
      const { error } = await waitForJob(owner.key, job, "failed");
      expect(error.message).toBe(`No file '${secondFile}'.`);
    }
  });

  test("ends without its last line where the examples go while it is read", async () => {
    const tenant = await tenantWithTickets();
    const { key } = tenant;
    const lines = Array.from({ length: 3_000 }, (_, i) =>
      JSON.stringify({ text: `more ${i} ${"x".repeat(1_000)}`, label: "x" }),
    );
    const headers = { "content-type": "application/x-ndjson" };
    await call("POST", "/v1/datasets/tickets/examples", key, lines.join("\n"), headers);
    const { attempt } = await startJob(tenant);
    const response = await attempt.send("GET", "/data");
    const reader = response.body?.getReader();
    const decoder = new TextDecoder();
    let text = decoder.decode((await reader?.read())?.value, { stream: true });
    await call("DELETE", "/v1/datasets/tickets", key);
    try {
      for (;;) {
        const read = await reader?.read();
        if (read?.done !== false) break;
        text += decoder.decode(read.value, { stream: true });
      }
    } catch {
      // The connection breaks: that it is not whole shows in any case.
    }
    expect(text).not.toContain('"end":true');
  });
});

describe("an artifact", () => {
  const bytes = new Uint8Array(Array.from({ length: 1000 }, (_, i) => i % 251));
  const { sha256 } = describeArtifact(bytes);
  const length = (count: number) => ({ "content-length": `${count}` });

  test("is stored under its hash, and comes back byte for byte", async () => {
    const { tenant, job, attempt } = await newTenantWithJob();
    for (const _ of [1, 2]) {
      const answer = await attempt.uploadArtifact(bytes);
      expect([answer.status, answer.json], answer.text).toEqual([200, { sha256, bytes: 1000 }]);
    }
    expect(await listStoredKeys(tenant)).toEqual([`jobs/${job}/${sha256}`]);
    const gotBytes = await attempt.send("GET", `/artifacts/${sha256}`);
    expect([gotBytes.status, gotBytes.headers.get("content-type")]).toEqual([200, "application/octet-stream"]);
    expect(new Uint8Array(await gotBytes.arrayBuffer())).toEqual(bytes);
    expectError(await attempt.callback("GET", `/artifacts/${"0".repeat(64)}`), 404, "not_found");
  });

  test("is of its job alone", async () => {
    const owner = await newTenantWithJob();
    await owner.attempt.uploadArtifact(bytes);
    const [other, foreign] = [await startJob({ id: owner.tenant, key: owner.key }), await newTenantWithJob()];
    for (const { attempt } of [other, foreign])
      expectError(await attempt.callback("GET", `/artifacts/${sha256}`), 404, "not_found");
  });

  test("that is not what its name says, cut off, empty or too large is not stored", async () => {
    const { tenant, attempt } = await newTenantWithJob();
    expectError(await attempt.uploadArtifact(bytes, "0".repeat(64)), 422, "invalid_artifact");
    expectError(await attempt.uploadArtifact(bytes.slice(1), sha256), 422, "invalid_artifact");
    for (const empty of ["", undefined])
      expectError(
        await attempt.callback("PUT", `/artifacts/${sha256}`, empty),
        400,
        "missing_parameter",
        "content-length",
      );
    const oversizedBody = await attempt.callback(
      "PUT",
      `/artifacts/${sha256}`,
      new Uint8Array(MAX_SINGLE_UPLOAD_BYTES + 1),
    );
    expectError(oversizedBody, 413, "body_too_large");
    expect(oversizedBody.json.error.details).toEqual({
      limit: MAX_SINGLE_UPLOAD_BYTES,
      actual: MAX_SINGLE_UPLOAD_BYTES + 1,
    });
    const unknownLength = new ReadableStream({
      start(controller) {
        controller.enqueue(bytes);
        controller.close();
      },
    });
    expectError(
      await attempt.callback("PUT", `/artifacts/${sha256}`, unknownLength),
      400,
      "missing_parameter",
      "content-length",
    );
    expect(await listStoredKeys(tenant)).toEqual([]);
  });

  test("whose body ends early is not stored", async () => {
    const { tenant, submission, attempt } = await newTenantWithJob();
    const { readable, writable } = new FixedLengthStream(1000);
    const request = new Request(`http://graft.test${attempt.path}/artifacts/${sha256}`, {
      method: "PUT",
      headers: { authorization: `Bearer ${submission.token}`, ...length(1000) },
      body: readable,
    });
    const pendingResponse = createApp().fetch(request, env, createExecutionContext());
    const writer = writable.getWriter();
    await writer.write(bytes.slice(0, 500));
    await writer.abort(new Error("connection lost")).catch(() => undefined);
    const answer = await pendingResponse;
    expect(answer.status).toBe(503);
    expect(await answer.json()).toMatchObject({ error: { code: "storage_unavailable" } });
    expect(await listStoredKeys(tenant)).toEqual([]);
  });

  describe("in parts", () => {
    const largeArtifact = new Uint8Array(5 * 1024 * 1024 + 10).fill(7);
    const named = sha256Hex(largeArtifact);
    const splitAt = largeArtifact.length - 10;
    const uploadsPath = `/artifacts/${named}/uploads`;
    const json = (value: object) => JSON.stringify(value);

    async function beginUpload(attempt: ReturnType<typeof attemptClient>, path = uploadsPath): Promise<string> {
      const answer = await attempt.callback("POST", path, json({ bytes: largeArtifact.length }));
      expect(answer.status, answer.text).toBe(200);
      expect(answer.json).toEqual({ object: "batch.upload", upload_id: expect.any(String), part_bytes: PART_BYTES });
      return `${path}/${encodeURIComponent(answer.json.upload_id)}`;
    }
    async function sendParts(
      attempt: ReturnType<typeof attemptClient>,
      upload: string,
      ...parts: Uint8Array<ArrayBuffer>[]
    ) {
      const partReferences: object[] = [];
      for (const [i, part] of parts.entries()) {
        const answer = await attempt.callback("PUT", `${upload}/${i + 1}`, part);
        expect(answer.status, answer.text).toBe(200);
        expect(answer.json).toEqual({ part: i + 1, etag: expect.any(String) });
        partReferences.push(answer.json);
      }
      return partReferences;
    }

    test("becomes one", async () => {
      const { tenant, job, attempt } = await newTenantWithJob();
      const upload = await beginUpload(attempt);
      const parts = await sendParts(attempt, upload, largeArtifact.slice(0, splitAt), largeArtifact.slice(splitAt));
      expect(await listStoredKeys(tenant)).toEqual([]);
      const answer = await attempt.callback("POST", upload, json({ parts }));
      expect([answer.status, answer.json], answer.text).toEqual([200, { sha256: named, bytes: largeArtifact.length }]);
      const object = await env.BUCKET.get(artifactKey(tenant, job, named));
      expect(object && sha256Hex(new Uint8Array(await object.arrayBuffer()))).toBe(named);
    });

    test("whose bytes are others is deleted again, and can be uploaded anew", async () => {
      const { tenant, attempt } = await newTenantWithJob();
      const upload = await beginUpload(attempt);
      const wrongParts = await sendParts(
        attempt,
        upload,
        largeArtifact.slice(0, splitAt),
        largeArtifact.slice(splitAt + 1),
      );
      expectError(await attempt.callback("POST", upload, json({ parts: wrongParts })), 422, "invalid_artifact");
      expect(await listStoredKeys(tenant)).toEqual([]);
      const secondUpload = await beginUpload(attempt);
      const parts = await sendParts(
        attempt,
        secondUpload,
        largeArtifact.slice(0, splitAt),
        largeArtifact.slice(splitAt),
      );
      expect((await attempt.callback("POST", secondUpload, json({ parts }))).status).toBe(200);
    });

    test("that cannot be one is refused", async () => {
      const { tenant, attempt } = await newTenantWithJob();
      const parts = [{ part: 1, etag: "x" }];
      for (const upload of [`${uploadsPath}/unknown`, `${uploadsPath}/${"x".repeat(500)}`]) {
        expectError(await attempt.callback("PUT", `${upload}/1`, bytes), 422, "invalid_artifact");
        expectError(await attempt.callback("POST", upload, json({ parts })), 422, "invalid_artifact");
      }
      const upload = await beginUpload(attempt);
      const small = await sendParts(attempt, upload, largeArtifact.slice(0, 10), largeArtifact.slice(0, 10));
      expectError(await attempt.callback("POST", upload, json({ parts: small })), 422, "invalid_artifact");
      expectError(await attempt.callback("POST", await beginUpload(attempt), json({ parts })), 422, "invalid_artifact");
      expectError(await attempt.callback("POST", upload, json({ parts: [] })), 400, "invalid_parameter", "parts");
      expectError(await attempt.callback("POST", upload, json({})), 400, "missing_parameter", "parts");
      expectError(await attempt.callback("POST", upload, "{"), 400, "invalid_json");
      expectError(await attempt.callback("PUT", `${upload}/0`, bytes), 404, "not_found");
      expectError(await attempt.callback("PUT", `${upload}/10001`, bytes), 422, "invalid_artifact");
      expectError(await attempt.callback("PUT", `${upload}/1`, new Uint8Array(PART_BYTES + 1)), 413, "body_too_large");
      const huge = await attempt.callback("POST", uploadsPath, json({ bytes: limits.artifact_bytes + 1 }));
      expectError(huge, 413, "body_too_large");
      expect(huge.json.error.details).toEqual({ limit: limits.artifact_bytes, actual: limits.artifact_bytes + 1 });
      expectError(await attempt.callback("POST", uploadsPath, json({ bytes: 0 })), 400, "invalid_parameter", "bytes");
      expect(await listStoredKeys(tenant)).toEqual([]);
    });
  });
});

describe("a finish", () => {
  const head = linearHead({
    task: "single_label",
    labels: ["billing", "login"],
    dimensions: 256,
    weights: new Float32Array(512).fill(0.1),
    bias: new Float32Array(2),
  });
  const lexical = {
    buckets: 256,
    scale: 1,
    seenBuckets: Uint16Array.of(1, 2),
    idf: Float32Array.of(1, 1),
    scales: Float32Array.of(1, 1),
    weights: new Int8Array(4),
  };
  const editHeader = (bytes: Uint8Array<ArrayBuffer>, change: (header: Record<string, unknown>) => object) => {
    const length = new DataView(bytes.buffer).getUint32(4, true);
    const changedHeader = JSON.stringify(change(JSON.parse(Buffer.from(bytes.slice(8, 8 + length)).toString())));
    const padded = Buffer.from(changedHeader.padEnd(4 * Math.ceil(changedHeader.length / 4)));
    const start = Buffer.from(bytes.slice(0, 8));
    start.writeUInt32LE(padded.length, 4);
    return new Uint8Array(Buffer.concat([start, padded, Buffer.from(bytes.slice(8 + length))]));
  };
  const NONE = Float32Array.of(Number.NaN);

  async function startEvaluatedJob(job: object = {}) {
    const running = await newTenantWithJob({ head: "support", ...job });
    await running.attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better });
    return running;
  }

  test("under a name that another task has taken meanwhile fails the job, and leaves the head", async () => {
    const { attempt, key, job } = await startEvaluatedJob();
    const values = tickets().map(({ text }, value) => ({ text, value }));
    const params = { name: "support", examples: values, evaluation: { method: "none" } };
    expect((await call("POST", "/v1/heads", key, params)).status).toBe(201);
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(trainedHead.bytes);
    await attempt.sendAcceptedMessage({ type: "finished", manifest: makeManifest(trainedHead, "fine_tuned") });
    const { error } = await waitForJob(key, job, "failed");
    expect(error.message).toContain("is for the task 'regression'");
    expect((await call("GET", "/v1/heads/support", key)).json).toMatchObject({ version: 1, task: "regression" });
  });

  test.each<[string, Uint8Array<ArrayBuffer>]>([
    ["is no head", new Uint8Array(Buffer.from("no head at all"))],
    ["is cut off", encodeHead(head).slice(0, -1)],
    ["is longer than its head", new Uint8Array([...encodeHead(head), 0, 0, 0, 0])],
    ["is of a later version", new Uint8Array([...Buffer.from("GHD9"), ...encodeHead(head).slice(4)])],
    ["is for another task", encodeHead({ ...head, task: "multi_label" })],
    ["has other dimensions", encodeHead({ ...head, dimensions: 128, weights: head.weights.slice(256) })],
    [
      "has a weight that is no number",
      encodeHead({ ...head, weights: head.weights.map((w, i) => (i === 7 ? Number.NaN : w)) }),
    ],
    [
      "has an infinite weight",
      encodeHead({ ...head, weights: head.weights.map((w, i) => (i ? w : Number.POSITIVE_INFINITY)) }),
    ],
    ["has a bias that is no number", encodeHead({ ...head, bias: Float32Array.of(0, Number.NaN) })],
    ["has a temperature of zero", encodeHead({ ...head, temperature: 0 })],
    ["has no temperature", encodeHead({ ...head, temperature: Number.NaN })],
    ["has an offset that is no number", encodeHead({ ...head, offset: Number.NaN })],
    ["has a conformal score that is no number", encodeHead({ ...head, conformal: NONE })],
    ["has a lexical scale that is no number", encodeHead({ ...head, lexical: { ...lexical, scale: Number.NaN } })],
    [
      "has a lexical weight that is no number",
      encodeHead({ ...head, lexical: { ...lexical, scales: Float32Array.of(1, Number.NaN) } }),
    ],
    [
      "has a word's weight that is no number",
      encodeHead({ ...head, lexical: { ...lexical, idf: Float32Array.of(1, Number.NaN) } }),
    ],
    ["has no labels", encodeHead({ ...head, labels: [], weights: new Float32Array(), bias: new Float32Array() })],
    ["has labels that are no texts", encodeHead({ ...head, labels: [1, 2] as unknown as string[] })],
    ["has one label twice", encodeHead({ ...head, labels: ["a", "a"] })],
    [
      "has fewer scores than none",
      editHeader(encodeHead(head), (headerFields) => ({ ...headerFields, conformal: -2, dimensions: 257 })),
    ],
    [
      "has half a dimension",
      editHeader(encodeHead(head), (headerFields) => ({ ...headerFields, dimensions: 255.5, conformal: 1 })),
    ],
    ["has a header that is no object", editHeader(encodeHead(head), () => [])],
  ])("with bytes of which it %s is refused, and another attempt may do better", async (_what, bytes) => {
    const { tenant, key, job, attempt } = await startEvaluatedJob();
    expect((await attempt.uploadArtifact(bytes)).status).toBe(200);
    const trainedHead = await getTrainedHead();
    const manifest = { ...makeManifest(trainedHead, "fine_tuned"), artifact: describeArtifact(bytes) };
    for (const _ of [1, 2])
      expectError(await attempt.tell({ type: "finished", manifest }), 422, "invalid_artifact", "manifest.artifact");
    expect(await jobStatus(key, job)).toBe("running");
    expectError(await call("GET", "/v1/heads/support", key), 404, "not_found");
    expect(await listStoredKeys(tenant, "heads/")).toEqual([]);
    await attempt.sendAcceptedMessage({ type: "failed", message: "bad head", retryable: true });
    const nextAttempt = attemptClient(await waitForSubmission(tenant, 2));
    await nextAttempt.uploadArtifact(trainedHead.bytes);
    await nextAttempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better });
    await nextAttempt.sendAcceptedMessage({
      type: "finished",
      manifest: makeManifest(trainedHead, "fine_tuned") as never,
    });
    expect((await waitForJob(key, job, "succeeded")).graft).toMatchObject({ attempt: 2, version: 1 });
  });

  test("with lexical features for embeddings is refused", async () => {
    const owner = await newTenant();
    await call("POST", "/v1/datasets", owner.key, {
      name: "points",
      task: "single_label",
      modality: "embedding",
      dimensions: 2,
    });
    const examples = ["a", "b"].map((label, i) => ({ embedding: [i, 1], label }));
    await call("POST", "/v1/datasets/points/examples", owner.key, { examples });
    const { attempt } = await startJob(owner, { model: "embedding", training_file: "dataset:points" });
    await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better });
    const small = { ...head, labels: ["a", "b"], dimensions: 2, weights: new Float32Array(4) };
    const trainedHead = await getTrainedHead();
    for (const [bytes, status] of [
      [encodeHead({ ...small, lexical }), 422],
      [encodeHead(small), 200],
    ] as const) {
      await attempt.uploadArtifact(bytes);
      const manifest = { ...makeManifest(trainedHead, "fine_tuned"), artifact: describeArtifact(bytes) };
      expect((await attempt.tell({ type: "finished", manifest })).status).toBe(status);
    }
  });

  test("with a head that no KV value holds is refused, before it is read", async () => {
    const { tenant, job, attempt } = await startEvaluatedJob();
    const oversizedBody = new Uint8Array(25 * 1024 * 1024 + 4);
    expect((await attempt.uploadArtifact(oversizedBody)).status).toBe(200);
    const manifest = {
      ...makeManifest(await getTrainedHead(), "fine_tuned"),
      artifact: describeArtifact(oversizedBody),
    };
    const answer = await attempt.tell({ type: "finished", manifest });
    expectError(answer, 422, "limit_exceeded", "manifest.artifact");
    expect(answer.json.error.details).toEqual({ limit: limits.head_bytes, actual: oversizedBody.length });
    // Whatever it says of its size.
    const mismatchResponse = await attempt.tell({
      type: "finished",
      manifest: { ...manifest, artifact: { ...manifest.artifact, bytes: 1 } },
    });
    expectError(mismatchResponse, 422, "invalid_artifact", "manifest.artifact");
    expect(await listStoredKeys(tenant)).toEqual([`jobs/${job}/${describeArtifact(oversizedBody).sha256}`]);
  });

  test.each<[string, (manifest: ReturnType<typeof makeManifest>) => object, number, string, string]>([
    [
      "of bytes that were not uploaded",
      (m) => ({ ...m, artifact: { sha256: "0".repeat(64), bytes: 1 } }),
      422,
      "invalid_artifact",
      "manifest.artifact",
    ],
    [
      "of another length",
      (m) => ({ ...m, artifact: { ...m.artifact, bytes: 1 } }),
      422,
      "invalid_artifact",
      "manifest.artifact",
    ],
    [
      "with an evaluation without a method",
      (m) => ({ ...m, evaluation: {} }),
      400,
      "missing_parameter",
      "manifest.evaluation.method",
    ],
    [
      "with an evaluation by another method",
      (m) => ({ ...m, evaluation: { ...m.evaluation, method: "guess" } }),
      400,
      "invalid_parameter",
      "method",
    ],
    [
      "with an evaluation of texts",
      (m) => ({ ...m, evaluation: { ...m.evaluation, accuracy: "good" } }),
      400,
      "invalid_parameter",
      "accuracy",
    ],
    [
      "with a training without a penalty",
      (m) => ({ ...m, training: { ...m.training, l2: undefined } }),
      400,
      "missing_parameter",
      "manifest.training.l2",
    ],
    [
      "of no examples",
      (m) => ({ ...m, dataset: { revision: 1, examples: 0 } }),
      400,
      "invalid_parameter",
      "manifest.dataset.examples",
    ],
    ["of another candidate", (m) => ({ ...m, candidate: "both" }), 400, "invalid_parameter", "manifest.candidate"],
    [
      "with an evaluation that is too large",
      (m) => ({ ...m, evaluation: { ...m.evaluation, confusion: { labels: ["x".repeat(1_950_000)], matrix: [] } } }),
      422,
      "limit_exceeded",
      "",
    ],
  ])("%s is refused, and the job goes on", async (_what, change, status, code, param) => {
    const { key, job, attempt } = await startEvaluatedJob();
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(trainedHead.bytes);
    const answer = await attempt.tell({ type: "finished", manifest: change(makeManifest(trainedHead, "fine_tuned")) });
    expectError(answer, status, code as "invalid_artifact", param || null);
    expect(await jobStatus(key, job)).toBe("running");
    await attempt.sendAcceptedMessage({ type: "finished", manifest: makeManifest(trainedHead, "fine_tuned") as never });
    await waitForJob(key, job, "succeeded");
  });

  test("without an evaluation is taken, and what is not known of one is left out", async () => {
    for (const evaluation of [null, { method: "none", detail: "summary", examples: 0, later: 1 }]) {
      const { key, job, attempt } = await startEvaluatedJob();
      const trainedHead = await getTrainedHead();
      await attempt.uploadArtifact(trainedHead.bytes);
      await attempt.sendAcceptedMessage({
        type: "finished",
        manifest: { ...makeManifest(trainedHead, "fine_tuned"), evaluation } as never,
      });
      await waitForJob(key, job, "succeeded");
      const storedEvaluation = (await call("GET", "/v1/heads/support", key)).json.evaluation;
      expect(storedEvaluation).toEqual(evaluation && { method: "none", detail: "summary", examples: 0 });
    }
  });

  const none = { method: "none" };
  test.each([
    ["if_better", "better", "fine_tuned", true],
    ["if_better", "not_better", "head", false],
    ["if_better", "inconclusive", "head", false],
    ["always", "better", "fine_tuned", true],
    ["always", "not_better", "fine_tuned", true],
    ["never", "better", "fine_tuned", false],
    ["never", "not_better", "fine_tuned", false],
  ] as const)(
    "under %s, %s, is of the candidate %s, and beside a head that serves is promoted: %s",
    async (promote, verdict, candidate, promoted) => {
      const owner = await tenantWithTickets();
      const { key } = owner;
      await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets", evaluation: none });
      const predict = async () => {
        const answer = await call("POST", "/v1/heads/support/predict", key, { input: "refund my last invoice" });
        return answer.json.model;
      };
      expect(await predict()).toBe("support@1");
      const { job, attempt } = await startJob(owner, { head: "support", promote });
      expect((await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons[verdict] })).refit).toBe(
        candidate,
      );
      const trainedHead = await getTrainedHead();
      await attempt.uploadArtifact(trainedHead.bytes);
      await attempt.sendAcceptedMessage({ type: "finished", manifest: makeManifest(trainedHead, candidate) as never });
      const { graft } = await waitForJob(key, job, "succeeded");
      expect(graft).toMatchObject({ head: "support", version: 2, promoted, comparison: { verdict } });
      expect(await predict()).toBe(promoted ? "support@2" : "support@1");
      expect((await call("GET", "/v1/heads/support", key)).json.active_version).toBe(promoted ? 2 : 1);
      expect((await listMessages(key, job)).at(-1)).toBe(
        `The job has made version 2, which ${promoted ? "is active now" : "was not promoted"}.`,
      );
    },
  );

  test.each([
    ["if_better", true],
    ["always", true],
    ["never", false],
  ] as const)("under %s, where no version serves yet, is promoted: %s", async (promote, promoted) => {
    const { key, job, attempt } = await newTenantWithJob({ head: "support", promote });
    const { refit } = await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.not_better });
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(trainedHead.bytes);
    await attempt.sendAcceptedMessage({
      type: "finished",
      manifest: makeManifest(trainedHead, refit as "head") as never,
    });
    expect((await waitForJob(key, job, "succeeded")).graft).toMatchObject({ version: 1, promoted });
    const answer = await call("POST", "/v1/heads/support/predict", key, { input: "a" });
    expect(answer.status).toBe(promoted ? 200 : 404);
  });

  test("by two jobs for one head at once makes two versions", async () => {
    const owner = await tenantWithTickets();
    const jobs = [await startJob(owner, { head: "support" }), await startJob(owner, { head: "support" })];
    const heads = [await getTrainedHead("one"), await getTrainedHead("two")];
    for (const [i, { attempt }] of jobs.entries()) {
      await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better });
      await attempt.uploadArtifact(heads[i]?.bytes ?? new Uint8Array());
    }
    await Promise.all(
      jobs.map(({ attempt }, i) =>
        attempt.sendAcceptedMessage({
          type: "finished",
          manifest: makeManifest(heads[i] as (typeof heads)[0], "fine_tuned") as never,
        }),
      ),
    );
    const { data } = (await call("GET", "/v1/heads/support/versions", owner.key)).json;
    expect(data.map(({ version, active_version }: Record<string, number>) => [version, active_version])).toEqual([
      [2, 2],
      [1, 2],
    ]);
    await vi.waitUntil(async () => (await listStoredKeys(owner.id, "jobs/")).length === 0, PATIENCE);
  });
});
