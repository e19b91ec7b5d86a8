/** What the Worker may call on a ledger for heads, fine-tuned backbones, policies, feedback and retraining. */
import type { CapturedDeletion } from "../../api/capture.ts";
import type { EvaluationRunPageRequest } from "../../api/evaluations.ts";
import type { PageRequest } from "../../api/lists.ts";
import type { NewHeadTraffic } from "../../api/traffic.ts";
import { ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import type { Policy } from "../../core/lifecycle/policy.ts";
import { hasBytes } from "../../store/content-addressed.ts";
import { backboneKey, headKey } from "../../store/keys.ts";
import { selectDataset } from "../data/datasets.ts";
import { changeDataset } from "../data/merge.ts";
import { countTrainedOn } from "../data/overlap.ts";
import type { JobSpec } from "../jobs/jobs.ts";
import type { Transactions } from "../transactions.ts";
import * as backbones from "./backbones.ts";
import * as capture from "./capture.ts";
import { deleteCaptured } from "./capture-deletion.ts";
import * as captured from "./captured-inputs.ts";
import { listErrors } from "./evaluation-errors.ts";
import * as evaluations from "./evaluations.ts";
import * as feedback from "./feedback.ts";
import * as heads from "./heads.ts";
import * as policies from "./policies.ts";
import { readReport } from "./report.ts";
import * as retraining from "./retraining.ts";
import { leaseHead } from "./served-heads.ts";
import * as traffic from "./traffic.ts";
import { type CountBatch, recordCounts } from "./traffic-counts.ts";
import { getTrafficReport } from "./traffic-report.ts";
import { readTrainedExamples } from "./vectors.ts";

/** Commits a version of a head, and maybe the layers under it, whose bytes are in R2. */
export function commitHeadIfStored<T>(
  ledger: Transactions,
  head: heads.NewHead,
  layers: { readonly sha256: string } | null,
  commit: () => Promise<Result<T>>,
): Promise<Result<T>> {
  const isStored = async (bucket: R2Bucket, tenant: string) =>
    (await hasBytes(bucket, headKey(tenant, head.sha256))) &&
    (layers === null || (await hasBytes(bucket, backboneKey(tenant, layers.sha256))));
  return ledger.commitIfStored(isStored, "The head's bytes were not found in storage. Train again.", commit);
}

export const headMethods = {
  /** `run`: the test of the version, if it was tested. `vectors`: positions of the examples whose embeddings it holds. */
  commitHead(
    ledger: Transactions,
    claim: string | null,
    head: heads.NewHead,
    promote: boolean,
    run: evaluations.NewRun | null = null,
    vectors: Uint32Array | null = null,
  ) {
    const change = (sql: SqlStorage, now: number) => {
      const backboneCheck = backbones.checkBackboneExists(sql, head.backbone);
      if (!backboneCheck.ok) return backboneCheck;
      return evaluations.commitTestedHead(sql, evaluations.checkTest(sql, head, run), promote, now, vectors);
    };
    return commitHeadIfStored(ledger, head, null, () =>
      ledger.change(change, { claim, status: 201, refer: heads.referToHead }),
    );
  },
  readTrainedExamples: (
    ledger: Transactions,
    version: { readonly id: string; readonly version: number; readonly sha256: string },
    positions: readonly number[],
  ) => ledger.read((sql) => readTrainedExamples(sql, version, positions)),
  getHead: (ledger: Transactions, name: string, version: number | null) =>
    ledger.read((sql) => heads.getHead(sql, name, version)),
  readReport: (ledger: Transactions, name: string, version: number, withTexts: boolean) =>
    ledger.read((sql) => readReport(sql, name, version, withTexts)),
  checkHeadTask: (ledger: Transactions, name: string, task: Task) =>
    ledger.read((sql) => heads.checkHeadTask(sql, name, task, "name")),
  listHeads: (ledger: Transactions, request: PageRequest) => ledger.read((sql) => heads.listHeads(sql, request)),
  listVersions: (ledger: Transactions, name: string, request: PageRequest) =>
    ledger.read((sql) => heads.listVersions(sql, name, request)),
  promoteHead: (ledger: Transactions, claim: string | null, name: string, version: number) =>
    ledger.change((sql, now) => heads.promoteHead(sql, name, version, now), {
      claim,
      status: 200,
      refer: heads.referToHead,
    }),
  deleteHead: (ledger: Transactions, name: string) => ledger.change((sql, now) => heads.deleteHead(sql, name, now)),

  addRun: (ledger: Transactions, claim: string | null, version: evaluations.RunVersion, run: evaluations.NewRun) =>
    ledger.change((sql, now) => evaluations.addRun(sql, version, run, now), {
      claim,
      status: 201,
      refer: (_, { id }) => ({ kind: "evaluation", id }),
    }),
  getRun: (ledger: Transactions, id: string) => ledger.read((sql) => evaluations.getRun(sql, id)),
  listRuns: (ledger: Transactions, request: EvaluationRunPageRequest) =>
    ledger.read((sql) => evaluations.listRuns(sql, request)),
  listErrors,
  /** `trained`: what is trained, or the name of the dataset that it is trained on; null if that is not known. */
  checkTestDataset: (ledger: Transactions, name: string, trained: evaluations.TestedShape | string | null) =>
    ledger.read((sql) => {
      const shape = typeof trained === "string" ? selectDataset(sql, "name", trained) : trained;
      return evaluations.checkTestDataset(sql, name, shape);
    }),
  countTrainedOn,
  leaseHead: (ledger: Transactions, name: string, version: number | null) =>
    ledger.read((sql) => leaseHead(sql, name, version)),
  getTraffic: (ledger: Transactions, name: string) => ledger.read((sql) => traffic.getTraffic(sql, name)),
  setTraffic: (ledger: Transactions, name: string, request: NewHeadTraffic) =>
    ledger.change((sql, now) => {
      const set = traffic.setTraffic(sql, name, request, now);
      if (!set.ok) return set;
      const promoted = set.value.promote === null ? ok(null) : heads.promoteHead(sql, name, set.value.promote, now);
      return promoted.ok ? traffic.getTraffic(sql, name) : promoted;
    }),
  getTrafficReport: (ledger: Transactions, name: string) => ledger.read((sql, now) => getTrafficReport(sql, name, now)),
  recordCounts: (ledger: Transactions, batch: CountBatch) => ledger.change((sql, now) => recordCounts(sql, batch, now)),

  getCapture: (ledger: Transactions, name: string) => ledger.read((sql, now) => capture.getCapture(sql, name, now)),
  setCapture: (ledger: Transactions, name: string, setting: capture.Capture | null) =>
    ledger.change((sql, now) => capture.setCapture(sql, name, setting, now)),
  recordCaptured: (ledger: Transactions, name: string, inputs: readonly capture.NewCapturedInput[]) =>
    ledger.change((sql) => capture.recordCaptured(sql, name, inputs)),
  listCaptured: (ledger: Transactions, name: string, request: PageRequest) =>
    ledger.read((sql, now) => captured.listCaptured(sql, name, request, now)),
  readLabellingTarget: (ledger: Transactions, name: string, ids: readonly string[]) =>
    ledger.read((sql, now) => captured.readLabellingTarget(sql, name, ids, now)),
  labelCaptured: (
    ledger: Transactions,
    claim: string | null,
    name: string,
    ids: readonly string[],
    batch: feedback.FeedbackBatch,
  ) =>
    changeDataset(ledger, batch.dataset.name, (sql, now) => captured.labelCaptured(sql, name, ids, batch, now), {
      claim,
      status: 200,
    }),
  deleteCaptured: (ledger: Transactions, claim: string | null, name: string, deletion: CapturedDeletion) =>
    ledger.change((sql, now) => deleteCaptured(sql, name, deletion, now), { claim, status: 200 }),

  findBackbone: (ledger: Transactions, id: string) => ledger.read((sql) => backbones.findBackbone(sql, id)),
  listBackbones: (ledger: Transactions) => ledger.read((sql) => ok(backbones.listBackbones(sql))),
  deleteBackbone: (ledger: Transactions, id: string) =>
    ledger.change((sql, now) => backbones.deleteBackbone(sql, id, now)),

  getPolicy: (ledger: Transactions, name: string) => ledger.read((sql) => policies.getPolicy(sql, name)),
  setPolicy: (ledger: Transactions, name: string, policy: Policy) =>
    ledger.change((sql, now) => policies.setPolicy(sql, name, policy, now)),
  getFeedbackTarget: (ledger: Transactions, name: string) =>
    ledger.read((sql) => policies.getFeedbackTarget(sql, name)),
  recordFeedback: (ledger: Transactions, claim: string | null, name: string, batch: feedback.FeedbackBatch) =>
    changeDataset(ledger, batch.dataset.name, (sql, now) => feedback.recordFeedback(sql, name, batch, now), {
      claim,
      status: 200,
    }),

  getRetrainingSpec: (ledger: Transactions, name: string, attempt: number) =>
    ledger.read((sql) => retraining.getRetrainingSpec(sql, name, attempt)),
  commitRetraining: (
    ledger: Transactions,
    attempt: number,
    head: heads.NewHead,
    run: evaluations.NewRun | null = null,
    vectors: Uint32Array | null = null,
  ) =>
    commitHeadIfStored(ledger, head, null, () =>
      ledger.change((sql, now) => retraining.commitRetraining(sql, attempt, head, run, now, vectors)),
    ),
  createRetrainingJob: (ledger: Transactions, attempt: number, id: string, spec: JobSpec) =>
    ledger.change((sql, now) => retraining.createRetrainingJob(sql, attempt, id, spec, now)),
};
