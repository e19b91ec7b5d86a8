/**
 * The issues of a dataset, as they were found at one of its revisions: positions of examples, labels and scores, no texts.
 * A list reads the examples when it is asked for, and leaves out those that have changed since. Issues that were dismissed
 * are in none.
 */
import type { DatasetIssue, IssuePageRequest } from "../../api/issues.ts";
import type { List } from "../../api/lists.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import type { IssueType } from "../../core/labels/issue.ts";
import { shortHash, toHex } from "../../lib/hash.ts";
import { toSeconds } from "../../lib/time.ts";
import { getHead } from "../heads/heads.ts";
import { type ServedHead, toServedHead } from "../heads/served-heads.ts";
import { paginate } from "../page.ts";
import { type DatasetRow, findDataset, selectDataset } from "./datasets.ts";
import { EXAMPLE_COLUMNS, type ExampleRow, toExample } from "./examples.ts";
import { rowsAt } from "./revisions.ts";

/** An issue before it is stored. */
export interface NewIssue {
  readonly type: IssueType;
  readonly position: number;
  /** The position of the example that it is compared with. */
  readonly related: number | null;
  /** JSON of the target that is suggested. */
  readonly target: string | null;
  readonly score: number;
}

export interface NewIssueList {
  readonly dataset: number;
  readonly revision: number;
  /** `<id>@<revision>`; empty for the caller's own embeddings. */
  readonly backbone: string;
  /** The estimated share of examples whose label is wrong. */
  readonly noise: number;
  /** Most likely first. */
  readonly issues: readonly NewIssue[];
}

export interface IssueListRow extends Record<string, SqlStorageValue> {
  revision: number;
  backbone: string;
  noise: number;
}

export interface IssueRow extends Record<string, SqlStorageValue> {
  number: number;
  id: string;
  type: IssueType;
  position: number;
  related: number | null;
  target: string | null;
  score: number;
}

/** What finding the issues of a dataset begins with. */
export interface IssueSource {
  readonly dataset: DatasetRow;
  readonly stored: IssueListRow | null;
  /** The head that is named, or the one that was trained last on the dataset; null if there is none. */
  readonly head: ServedHead | null;
}

export function readIssueSource(sql: SqlStorage, name: string, headName: string | null): Result<IssueSource> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  const stored = findIssueList(sql, dataset.value.id);
  const named = headName === null ? null : getHead(sql, headName, null);
  if (named?.ok === false) return { ok: false, failure: { ...named.failure, param: "head" } };
  return ok({
    dataset: dataset.value,
    stored,
    head: named === null ? findLatestHead(sql, dataset.value.id) : toServedHead(named.value),
  });
}

export function findIssueList(sql: SqlStorage, dataset: number): IssueListRow | null {
  const query = "SELECT revision, backbone, noise FROM issue_lists WHERE dataset = ?";
  return sql.exec<IssueListRow>(query, dataset).toArray()[0] ?? null;
}

/** Of the versions that were trained on a dataset, one of those with its newest revision. */
function findLatestHead(sql: SqlStorage, dataset: number): ServedHead | null {
  const row = sql
    .exec<{ name: string; version: number }>(
      `SELECT name, version FROM head_versions JOIN heads ON heads.id = head
       WHERE dataset = ? ORDER BY head_versions.revision DESC, head DESC, version DESC LIMIT 1`,
      dataset,
    )
    .toArray()[0];
  const head = row && getHead(sql, row.name, row.version);
  return head?.ok ? toServedHead(head.value) : null;
}

interface ContentRow extends Record<string, SqlStorageValue> {
  id: string;
  content_hash: ArrayBuffer;
}

/** Replaces the dataset's issues. Those of examples that have been deleted meanwhile are left out. */
export function storeIssues(sql: SqlStorage, list: NewIssueList, now: number): Result<null> {
  const dataset = selectDataset(sql, "id", list.dataset);
  if (dataset === null) return fail("not_found", "The dataset was deleted while its issues were looked for.");
  sql.exec("DELETE FROM issues WHERE dataset = ?", dataset.id);
  sql.exec(
    "INSERT OR REPLACE INTO issue_lists (dataset, revision, backbone, noise, created_at) VALUES (?, ?, ?, ?, ?)",
    dataset.id,
    list.revision,
    list.backbone,
    list.noise,
    toSeconds(now),
  );
  forgetOldDecisions(sql, dataset.id, now);
  const content = rowsAt(dataset, list.revision, "id, content_hash", "position = ?3");
  // The list shows the highest number first.
  for (const [i, { type, position, related, target, score }] of list.issues.entries()) {
    const example = sql.exec<ContentRow>(content, dataset.id, list.revision, position).toArray()[0];
    if (example === undefined) continue;
    sql.exec(
      "INSERT OR IGNORE INTO issues (dataset, number, id, type, position, related, target, score) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
      dataset.id,
      list.issues.length - i,
      issueId(type, example),
      type,
      position,
      related,
      target,
      score,
    );
  }
  return ok(null);
}

function issueId(type: IssueType, { id, content_hash }: ContentRow): string {
  return `issue_${toHex(shortHash(`${type}\n${toHex(new Uint8Array(content_hash))}\n${id}`))}`;
}

const DECISION_RETENTION_SECONDS = 30 * 24 * 3_600;

/** What was dismissed is kept as long as its example; the other decisions have changed theirs, and only answer repetitions. */
function forgetOldDecisions(sql: SqlStorage, dataset: number, now: number): void {
  sql.exec(
    "DELETE FROM resolved_issues WHERE dataset = ? AND action <> 'dismiss' AND resolved_at < ?",
    dataset,
    toSeconds(now) - DECISION_RETENTION_SECONDS,
  );
}

/** A page of the stored issues, most likely first. */
export function listIssues(
  sql: SqlStorage,
  name: string,
  { type, ...request }: IssuePageRequest,
): Result<List<DatasetIssue>> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  const { id } = dataset.value;
  const list = findIssueList(sql, id);
  return paginate(request, {
    findPosition: (issue) =>
      sql.exec<{ number: number }>("SELECT number FROM issues WHERE dataset = ? AND id = ?", id, issue).toArray()[0]
        ?.number ?? null,
    readRows: (cursor) => (list === null ? [] : readOpenIssues(sql, dataset.value, list, cursor, type)),
    toObject: (issue: DatasetIssue) => issue,
  });
}

/** The issues below a number that nobody has resolved and whose examples are as they were found, most likely first. */
export function* readOpenIssues(
  sql: SqlStorage,
  dataset: DatasetRow,
  { revision }: IssueListRow,
  below: number,
  type: IssueType | undefined,
): Generator<DatasetIssue> {
  const rows = sql
    .exec<IssueRow>(
      `SELECT number, id, type, position, related, target, score FROM issues
       WHERE dataset = ?1 AND number < ?2 AND (?3 IS NULL OR type = ?3)
         AND id NOT IN (SELECT id FROM resolved_issues WHERE dataset = ?1) ORDER BY number DESC`,
      dataset.id,
      below,
      type ?? null,
    )
    .toArray();
  for (const row of rows) {
    const example = findUnchanged(sql, dataset, revision, row.position);
    const related = row.related === null ? null : findUnchanged(sql, dataset, revision, row.related);
    if (example === null || (row.related !== null && related === null)) continue;
    yield toIssue(dataset.task, row, example, related);
  }
}

/** The example at a position, if it has not changed since a revision. */
export function findUnchanged(
  sql: SqlStorage,
  dataset: DatasetRow,
  revision: number,
  position: number,
): ExampleRow | null {
  const query = rowsAt(dataset, dataset.revision, `${EXAMPLE_COLUMNS}, revision`, "position = ?3");
  const row = sql.exec<ExampleRow & { revision: number }>(query, dataset.id, dataset.revision, position).toArray()[0];
  return row !== undefined && row.revision <= revision ? row : null;
}

function toIssue(task: Task, row: IssueRow, example: ExampleRow, related: ExampleRow | null): DatasetIssue {
  const target = row.target === null ? null : JSON.parse(row.target);
  return {
    object: "dataset.issue",
    id: row.id,
    type: row.type,
    example: toExample(task, example),
    suggested_label: task === "single_label" ? target : null,
    ...(task === "multi_label" && target !== null ? { suggested_labels: target } : {}),
    ...(task === "regression" && target !== null ? { suggested_value: target } : {}),
    score: row.score,
    ...(related === null ? {} : { related_id: related.id }),
    reason: reasonOf(row, example, related),
  };
}

function reasonOf({ type, target, score }: IssueRow, example: ExampleRow, related: ExampleRow | null): string {
  switch (type) {
    case "label_error":
      return `Models that were not trained on this example expect ${show(target)}, and it has ${show(example.target)}: this is wrong with a probability of about ${Math.min(99, Math.round(100 * score))} %.`;
    case "conflict":
      return `Another example has the same input, apart from case and spacing, and ${show(related?.target)}; this one has ${show(example.target)}.`;
    case "near_duplicate":
      return `Another example has nearly the same input and ${show(related?.target)}; this one has ${show(example.target)}.`;
    case "duplicate":
      return `Another example has the same input, apart from case and spacing, and also ${show(example.target)}. It adds nothing.`;
    case "outlier":
      return "This input is far from those of every label, its own too. It may belong to none of them.";
  }
}

/** The JSON of a target in words. */
function show(target: string | null | undefined): string {
  const parsed: unknown = target === null || target === undefined ? null : JSON.parse(target);
  if (typeof parsed === "number") return `the value ${Number(parsed.toPrecision(6))}`;
  if (typeof parsed === "string") return `the label '${parsed}'`;
  if (!Array.isArray(parsed)) return "another label";
  return parsed.length === 0 ? "no label" : `the labels ${parsed.map((label) => `'${label}'`).join(", ")}`;
}
