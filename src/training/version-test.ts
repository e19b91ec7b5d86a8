/** The test of a new version on a test set, before it is stored: the ledger then adds both in one transaction. */
import type { HeadTest } from "../api/heads.ts";
import { type Failure, ok, type Result } from "../core/failure.ts";
import { endHeadLeases } from "../serving/active-heads.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import type { NewRun } from "../tenant/heads/evaluations.ts";
import { getLedger } from "../tenant/tenant.ts";
import { type Contender, loadVersion, type StoredContender, testContenders } from "./evaluations.ts";

export interface NewVersionTest {
  /** What the version's record says of it. */
  readonly record: HeadTest;
  /** Null if it failed. */
  readonly run: NewRun | null;
  readonly failure: Failure | null;
}

/** Tests a version of a head on a dataset, beside the version that is active. A failure is a result as well. */
export async function testNewVersion(
  request: TenantRequest,
  head: string,
  dataset: string,
  contender: Contender,
): Promise<NewVersionTest> {
  const active = await loadActiveVersion(request, head);
  const tested = active.ok ? await testContenders(request, dataset, contender, active.value, "test_dataset") : active;
  if (!tested.ok) {
    const { code, message } = tested.failure;
    const record = { dataset, evaluation: null, accuracy: null, failure: { code, message } };
    return { record, run: null, failure: tested.failure };
  }
  const { run } = tested.value.run;
  const accuracy = run.evaluation.accuracy ?? run.evaluation.r2 ?? null;
  return { record: { dataset, evaluation: run.id, accuracy, failure: null }, run: tested.value.run, failure: null };
}

/** The active version of a head; null if there is none. */
async function loadActiveVersion(request: TenantRequest, head: string): Promise<Result<StoredContender | null>> {
  const active = await getLedger(request.env.TENANT, request.tenant).getHead(head, null);
  if (!active.ok && active.failure.code !== "not_found") return active;
  if (!active.ok || active.value.active_version === null) return ok(null);
  return loadVersion(request, head, active.value.active_version, "test_dataset");
}

/** Tests the version that a job has made, beside the one that is active, and has the ledger decide on it. */
export async function testJobVersion(request: TenantRequest, job: string): Promise<Result<{ readonly id: string }>> {
  const { env, tenant } = request;
  const ledger = getLedger(env.TENANT, tenant);
  const untested = await ledger.getVersionTest(job);
  if (!untested.ok) return untested;
  const { head, version, dataset } = untested.value;
  const contender = await loadVersion(request, head, version, "head");
  if (!contender.ok) return contender;
  const active = await loadActiveVersion(request, head);
  if (!active.ok) return active;
  const other = active.value?.version === version ? null : active.value;
  const tested = await testContenders(request, dataset, contender.value, other, "test_dataset");
  if (!tested.ok) return tested;
  const committed = await ledger.commitVersionTest(job, tested.value.run);
  if (committed.ok) endHeadLeases(tenant, head);
  return committed;
}
