/** What the Worker may call on a ledger for datasets, their examples, imports and files. */
import type { LabelRename } from "../../api/dataset-changes.ts";
import type { StagedExample } from "../../api/examples.ts";
import type { FileListRequest } from "../../api/files.ts";
import type { IssuePageRequest } from "../../api/issues.ts";
import type { DeletedExample, PageRequest } from "../../api/lists.ts";
import type { RecommendationPageRequest } from "../../api/recommendations.ts";
import { ok, type Result } from "../../core/failure.ts";
import { hasFile } from "../../store/files.ts";
import type { StoredBlock } from "../../store/gather.ts";
import type { Upload } from "../../store/uploads.ts";
import { describeVersions, findVersionsWithVectors } from "../heads/vectors.ts";
import { getJobRules } from "../jobs/job-runner.ts";
import { checkFileUnused } from "../jobs/jobs.ts";
import { addMeasuredRecommendation, cancelMeasurements, type NewMeasurement } from "../jobs/measurements.ts";
import { schedule } from "../tasks/tasks.ts";
import type { Transactions } from "../transactions.ts";
import * as uploads from "../uploads.ts";
import { recordBlocks } from "./blocks.ts";
import * as datasets from "./datasets.ts";
import { type DiffParams, diffRevisions } from "./diff.ts";
import * as edits from "./edits.ts";
import { readRowsToEmbed } from "./embedding.ts";
import * as examples from "./examples.ts";
import * as files from "./files.ts";
import * as history from "./history.ts";
import * as imports from "./imports.ts";
import { type Decision, referToResolution, resolveIssues } from "./issue-resolution.ts";
import * as issues from "./issues.ts";
import { changeDataset, mergeImport } from "./merge.ts";
import { previewImport } from "./preview.ts";
import * as recommendations from "./recommendations.ts";
import { findRevision } from "./revisions.ts";
import { type ExampleFilter, listExamples } from "./search.ts";
import { StagedKeys } from "./staged-keys.ts";
import * as trainingSets from "./training-sets.ts";

function openConnection(ledger: Transactions, id: string): imports.ImportConnection {
  ledger.stagedKeys.set(id, new StagedKeys());
  return new imports.ImportConnection(() => {
    ledger.stagedKeys.delete(id);
    if (ledger.exists) void dataMethods.dropImport(ledger, id);
  });
}

export const dataMethods = {
  createDataset: (ledger: Transactions, claim: string | null, dataset: datasets.NewDataset) =>
    ledger.change((sql, now) => datasets.createDataset(sql, dataset, now), { claim, status: 201 }),
  getDataset: (ledger: Transactions, name: string) =>
    ledger.read((sql, now) => {
      const row = datasets.findDataset(sql, name);
      return row.ok ? ok(datasets.toDataset(sql, row.value, now)) : row;
    }),
  findDataset: (ledger: Transactions, name: string) => ledger.read((sql) => datasets.findDataset(sql, name)),
  listDatasets: (ledger: Transactions, request: PageRequest) =>
    ledger.read((sql, now) => datasets.listDatasets(sql, request, now)),
  deleteDataset: (ledger: Transactions, name: string) =>
    ledger.change((sql, now) => {
      const dataset = datasets.findDataset(sql, name);
      if (!dataset.ok) return dataset;
      const deleted = datasets.deleteDataset(sql, name, now);
      cancelMeasurements(sql, dataset.value.id, now, getJobRules(ledger.env));
      return deleted;
    }),

  listExamples,
  readExamples: (ledger: Transactions, dataset: datasets.DatasetRow, afterPosition: number, revision?: number) =>
    ledger.read((sql) => examples.readExamples(sql, dataset, afterPosition, revision)),
  getExample: (ledger: Transactions, name: string, id: string) =>
    ledger.read((sql) => {
      const dataset = datasets.findDataset(sql, name);
      if (!dataset.ok) return dataset;
      const row = examples.getExample(sql, dataset.value, id);
      return row.ok ? ok({ dataset: dataset.value, row: row.value }) : row;
    }),
  replaceExample: (ledger: Transactions, dataset: datasets.DatasetRow, replacement: examples.ExampleReplacement) =>
    changeDataset(ledger, dataset.name, (sql, now) => examples.replaceExample(sql, dataset, replacement, now)),
  async deleteExample(ledger: Transactions, name: string, id: string): Promise<Result<DeletedExample>> {
    const deleted = await changeDataset(ledger, name, (sql, now) => examples.deleteExample(sql, name, id, now));
    if (!deleted.ok) return deleted;
    const { dataset, position } = deleted.value;
    const versions = await findVersionsWithVectors(ledger, dataset, new Set([position]));
    return ledger.read((sql) => ok({ id, object: "example", deleted: true, ...describeVersions(sql, versions) }));
  },

  /** Renames a label in all examples; where the other name exists, the two become one. */
  async renameLabel(ledger: Transactions, claim: string | null, name: string, { label, to }: LabelRename) {
    const known = ledger.read((sql) => edits.checkLabel(sql, name, label));
    if (!known.ok) return known;
    // Its own name changes no example.
    const filter = label === to ? { label, ids: [] } : { label };
    return edits.editDataset(ledger, claim, name, { kind: "rename", filter, to });
  },
  /** Deletes the examples that have a label. */
  async deleteLabel(ledger: Transactions, claim: string | null, name: string, label: string) {
    const known = ledger.read((sql) => edits.checkLabel(sql, name, label));
    return known.ok ? edits.editDataset(ledger, claim, name, { kind: "delete", filter: { label } }) : known;
  },
  deleteExamples: (ledger: Transactions, claim: string | null, name: string, filter: ExampleFilter) =>
    edits.editDataset(ledger, claim, name, { kind: "delete", filter }),
  previewDeletion: edits.previewDeletion,
  listRevisions: (ledger: Transactions, name: string, request: PageRequest) =>
    ledger.read((sql) => history.listRevisions(sql, name, request)),
  findRevision: (ledger: Transactions, name: string, revision: number) =>
    ledger.read((sql) => {
      const dataset = datasets.findDataset(sql, name);
      return dataset.ok ? findRevision(sql, dataset.value, revision) : dataset;
    }),
  diffRevisions: (ledger: Transactions, name: string, params: DiffParams, afterPosition: number) =>
    ledger.read((sql) => diffRevisions(sql, name, params, afterPosition)),

  /** Opens an import. It ends without effect when the caller's `connection` does, unless its merge has begun. */
  async beginImport(ledger: Transactions, name: string, id: string) {
    const begun = await ledger.change((sql, now) => imports.beginImport(sql, name, id, now));
    return begun.ok ? ok({ ...begun.value, connection: openConnection(ledger, id) }) : begun;
  },
  /** Stages a batch of rows. It is small enough to take some milliseconds. */
  stageRows(ledger: Transactions, id: string, rows: readonly StagedExample[]): Result<null> {
    const keys = ledger.stagedKeys.get(id);
    if (keys === undefined) return imports.importEnded;
    return ledger.changeNow((sql) => imports.stageRows(sql, id, keys, rows));
  },
  mergeImport,
  previewImport,
  dropImport: (ledger: Transactions, id: string) =>
    ledger.change((sql, now) => {
      imports.dropImport(sql, id, now);
      return ok(null);
    }),

  addRecommendation: (
    ledger: Transactions,
    claim: string | null,
    dataset: number,
    record: recommendations.NewRecommendationRecord,
  ) =>
    ledger.change((sql, now) => recommendations.addRecommendation(sql, dataset, record, now), {
      claim,
      status: 201,
      refer: (_sql, { id }) => ({ kind: "recommendation", id }),
    }),
  /** Stores a recommendation that jobs measure, and makes these. */
  addMeasuredRecommendation: (
    ledger: Transactions,
    claim: string | null,
    dataset: number,
    record: recommendations.NewRecommendationRecord,
    measurement: NewMeasurement,
  ) =>
    ledger.change((sql, now) => addMeasuredRecommendation(sql, dataset, record, measurement, now), {
      claim,
      status: 202,
      refer: (_sql, { id }) => ({ kind: "recommendation", id }),
    }),
  getRecommendation: (ledger: Transactions, id: string) =>
    ledger.read((sql) => recommendations.getRecommendation(sql, id)),
  listRecommendations: (ledger: Transactions, request: RecommendationPageRequest) =>
    ledger.read((sql) => recommendations.listRecommendations(sql, request)),
  readIssueSource: (ledger: Transactions, name: string, head: string | null) =>
    ledger.read((sql) => issues.readIssueSource(sql, name, head)),
  storeIssues: (ledger: Transactions, list: issues.NewIssueList) =>
    ledger.changeNow((sql, now) => issues.storeIssues(sql, list, now)),
  listIssues: (ledger: Transactions, name: string, request: IssuePageRequest) =>
    ledger.read((sql) => issues.listIssues(sql, name, request)),
  resolveIssues: (ledger: Transactions, claim: string | null, name: string, decisions: readonly Decision[]) =>
    changeDataset(ledger, name, (sql, now) => resolveIssues(sql, name, decisions, now), {
      claim,
      status: 200,
      refer: referToResolution,
    }),

  readTrainingRows: trainingSets.readTrainingRows,
  readInputs: (ledger: Transactions, dataset: number, positions: readonly number[], revision?: number) =>
    ledger.read((sql) => ok(trainingSets.readInputs(sql, dataset, positions, revision))),
  readExampleIds: (ledger: Transactions, dataset: number, positions: readonly number[], revision: number) =>
    ledger.read((sql) => ok(trainingSets.readExampleIds(sql, dataset, positions, revision))),
  /** Notes blocks of embeddings that are in KV, and has the values that they replace deleted. */
  recordBlocks: (ledger: Transactions, dataset: number, backbone: string, blocks: ReadonlyMap<number, StoredBlock>) =>
    ledger.change((sql, now) => {
      for (const key of recordBlocks(sql, dataset, backbone, blocks, now)) schedule(sql, "delete_block", key, now);
      return ok(null);
    }),

  readRowsToEmbed,

  /** Notes an upload in parts, before its first part. */
  beginUpload: (ledger: Transactions, upload: Upload) =>
    ledger.change((sql, now) => uploads.beginUpload(sql, upload, now)),
  endUpload(ledger: Transactions, upload: Upload): void {
    if (ledger.exists) uploads.endUpload(ledger.storage.sql, upload);
  },
  /** Adds a file whose bytes are in R2, by an upload in parts or at once. */
  commitFile: (ledger: Transactions, file: files.NewFile, upload: Upload | null) =>
    ledger.commitIfStored(
      (bucket, tenant) => hasFile(bucket, tenant, file.id),
      "The file's bytes were not found in storage. Upload it again.",
      () =>
        ledger.change((sql, now) => {
          if (upload !== null) uploads.endUpload(sql, upload);
          return files.addFile(sql, file, now);
        }),
    ),
  getFile: (ledger: Transactions, id: string) => ledger.read((sql) => files.getFile(sql, id)),
  listFiles: (ledger: Transactions, request: FileListRequest) => ledger.read((sql) => files.listFiles(sql, request)),
  deleteFile: (ledger: Transactions, id: string) =>
    ledger.change((sql, now) => {
      const unused = checkFileUnused(sql, id);
      return unused.ok ? files.deleteFile(sql, id, now) : unused;
    }),
};
