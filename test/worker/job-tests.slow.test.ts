/** The test of a job's version on a test set, and whether it is promoted. */
import { SELF } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, test } from "vitest";
import { makeVersionTestToken } from "../../src/jobs/token.ts";
import { getLedger } from "../../src/tenant/tenant.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectError } from "./assertions.ts";
import {
  comparisons,
  getTrainedHead,
  listDueTasks,
  listJobEvents,
  makeManifest,
  mockBatchEndpoint,
  startJob,
  waitForJob,
} from "./fake-batch-endpoint.ts";

mockBatchEndpoint();

/** A tenant whose job has made a version, and whether a version is active before it. */
async function finishJob({
  change,
  active,
  promote = "if_better",
}: {
  change?: (key: string) => Promise<unknown>;
  active?: object[];
  promote?: string;
}) {
  const owner = await tenantWithTickets();
  const { key } = owner;
  await call("POST", "/v1/datasets", key, { name: "holdout", task: "single_label", modality: "text" });
  await call("POST", "/v1/datasets/holdout/examples", key, { examples: tickets() });
  if (active !== undefined) {
    const backbone = (await getTrainedHead()).head.backbone.id;
    const body = {
      name: "support",
      examples: active,
      evaluation: { method: "none" },
      hyperparameters: { l2: 1 },
      backbone,
    };
    expect((await call("POST", "/v1/heads", key, body)).status).toBe(201);
  }
  const { job, attempt } = await startJob(owner, { head: "support", test_dataset: "holdout", promote });
  const trainedHead = await getTrainedHead();
  await attempt.uploadArtifact(trainedHead.bytes);
  await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better });
  await change?.(key);
  await attempt.sendAcceptedMessage({ type: "finished", manifest: makeManifest(trainedHead, "fine_tuned") });
  const ended = await waitForJob(key, job, ({ graft }) => graft.test !== null);
  const { active_version } = (await call("GET", "/v1/heads/support", key)).json;
  return { ...owner, job, ended, active: active_version };
}

/** A head that takes one topic for another. */
const swapped: Record<string, string> = { login: "shipping", shipping: "login" };
const badly = tickets().map(({ text, label }) => ({ text, label: swapped[label] ?? label }));

describe("under 'if_better' the version", () => {
  test("is promoted if it is better than the active one on the test set", async () => {
    const { id, key, job, ended, active } = await finishJob({ active: badly });
    expect(active).toBe(2);
    expect(ended.graft).toMatchObject({ version: 2, promoted: true, test: { dataset: "holdout", failure: null } });
    const run = (await call("GET", `/v1/evaluations/${ended.graft.test.evaluation}`, key)).json;
    expect(run).toMatchObject({ head: "support", version: 2, comparison: { version: 1 } });
    expect(run.comparison.chance_of_loss).toBeLessThan(0.1);
    expect((await listJobEvents(key, job)).at(-1)?.message).toContain("was tested on 'holdout', and is active now");
    // What comes twice, or late, changes nothing.
    const ledger = getLedger(env.TENANT, id);
    expect(await ledger.getVersionTest(job)).toMatchObject({ failure: { code: "attempt_ended" } });
    const again = await SELF.fetch(`http://graft.test/internal/jobs/${job}/test`, {
      method: "POST",
      headers: { authorization: `Bearer ${makeVersionTestToken(env.SERVER_KEY, { tenant: id, job })}` },
    });
    expect(again.ok).toBe(false);
    expect((await call("GET", "/v1/evaluations", key)).json.data).toHaveLength(1);
    expect(await listDueTasks(id, "test_version")).toEqual([]);
  });

  test("is not promoted if it is no better, and kept", async () => {
    const { ended, active } = await finishJob({ active: tickets() });
    expect(active).toBe(1);
    expect(ended.graft).toMatchObject({ version: 2, promoted: false, test: { failure: null } });
  });

  test("is promoted after its test where none is active", async () => {
    const { ended, active } = await finishJob({});
    expect([ended.graft.promoted, active]).toEqual([true, 1]);
  });

  test("is not promoted without its test set, and the job has succeeded", async () => {
    const remove = (key: string) => call("DELETE", "/v1/datasets/holdout", key);
    const { key, job, ended, active } = await finishJob({ active: badly, change: remove });
    expect([ended.status, ended.graft.promoted, active]).toEqual(["succeeded", false, 1]);
    expect(ended.graft.test).toMatchObject({ evaluation: null, failure: { code: "not_found" } });
    expect((await listJobEvents(key, job)).at(-1)).toMatchObject({ level: "warn" });
  });
});

describe("while shares are set the version waits for their end", () => {
  test.each(["if_better", "always"])("under '%s'", async (promote) => {
    const setShares = async (key: string) => {
      const { backbone } = (await call("GET", "/v1/heads/support", key)).json;
      const body = { name: "support", examples: badly, evaluation: { method: "none" }, backbone: backbone.id };
      expect((await call("POST", "/v1/heads", key, { ...body, promote: false })).status).toBe(201);
      const versions = [1, 2].map((version) => ({ version, share: 0.5 }));
      expect((await call("PUT", "/v1/heads/support/traffic", key, { versions })).status).toBe(200);
    };
    const { key, ended, active } = await finishJob({ active: badly, promote, change: setShares });
    expect(ended.graft).toMatchObject({ version: 3, promoted: false, test: { failure: null } });
    expect(active).toBe(1);
    expect((await call("GET", "/v1/heads/support/traffic", key)).json).toMatchObject({ waiting_version: 3 });
    const cleared = await call("PUT", "/v1/heads/support/traffic", key, { versions: [] });
    expect(cleared.json).toMatchObject({ active_version: 3, waiting_version: null });
  });
});

test("'always' promotes at once, whatever the test says", async () => {
  const { ended, active } = await finishJob({ active: tickets(), promote: "always" });
  expect([ended.graft.promoted, active]).toEqual([true, 2]);
  expect(ended.graft.test.evaluation).not.toBeNull();
});

test("a test set that there is not, or of another task, is refused", async () => {
  const { key } = await tenantWithTickets();
  await call("POST", "/v1/datasets", key, { name: "numbers", task: "regression", modality: "text" });
  const create = (test_dataset: unknown) =>
    call("POST", "/v1/fine_tuning/jobs", key, { model: "hash-text-1", training_file: "dataset:tickets", test_dataset });
  expectError(await create("absent"), 404, "not_found", "test_dataset");
  expectError(await create("numbers"), 422, "task_mismatch", "test_dataset");
  expectError(await create("NO"), 400, "invalid_parameter", "test_dataset");
});

test("the route of the ledger takes a token for the job alone", async () => {
  const { id } = await newTenant();
  const job = `ftjob-${"0".repeat(32)}`;
  const post = async (token: string, path = job) => {
    const headers = { authorization: `Bearer ${token}` };
    return (await SELF.fetch(`http://graft.test/internal/jobs/${path}/test`, { method: "POST", headers })).status;
  };
  const token = makeVersionTestToken(env.SERVER_KEY, { tenant: id, job });
  expect(await post(token)).toBe(404);
  expect(await post(token, `ftjob-${"1".repeat(32)}`)).toBe(401);
  expect(await post(`${token.slice(0, -1)}${token.endsWith("0") ? 1 : 0}`)).toBe(401);
});
