/** What a report on a version of a head shows. */
import type { Head } from "../../api/heads.ts";
import type { DatasetIssue } from "../../api/issues.ts";
import type { Recommendation } from "../../api/recommendations.ts";
import { ok, type Result } from "../../core/failure.ts";
import { type DatasetRow, selectDataset } from "../data/datasets.ts";
import { findIssueList, readOpenIssues } from "../data/issues.ts";
import { findNewestRecommendation } from "../data/recommendations.ts";
import { rowsAt } from "../data/revisions.ts";
import { getHead } from "./heads.ts";

export interface HeadReport {
  readonly head: Head;
  /** Texts by the ids of the examples that the evaluation names, as they were trained on; null unless they were asked for. */
  readonly texts: ReadonlyMap<string, string> | null;
  /** The newest one for the dataset that the version was trained on. */
  readonly recommendation: Recommendation | null;
  /** The most likely issues of the dataset that it was trained on, if they are stored, as the examples are now. */
  readonly issues: readonly DatasetIssue[];
}

const MAX_ISSUES = 10;

/** Characters of a text. What is longer is cut. */
const MAX_TEXT = 500;

/** A version, the texts of the examples that its evaluation names, and what was recommended. What was deleted has none. */
export function readReport(sql: SqlStorage, name: string, version: number, withTexts: boolean): Result<HeadReport> {
  const head = getHead(sql, name, version);
  if (!head.ok) return head;
  const source = sql
    .exec<Source>(
      "SELECT dataset, revision FROM head_versions WHERE head = (SELECT id FROM heads WHERE name = ?) AND version = ?",
      name,
      version,
    )
    .one();
  const ids = (head.value.evaluation?.confused ?? []).flatMap(({ examples }) => examples);
  const dataset = source.dataset === null ? null : selectDataset(sql, "id", source.dataset);
  return ok({
    head: head.value,
    texts: withTexts ? readTexts(sql, source, ids) : null,
    issues: dataset === null ? [] : readIssues(sql, dataset),
    recommendation: source.dataset === null ? null : findNewestRecommendation(sql, source.dataset),
  });
}

/** What a version was trained on, if that is known. */
interface Source extends Record<string, SqlStorageValue> {
  dataset: number | null;
  revision: number | null;
}

function readTexts(sql: SqlStorage, source: Source, ids: readonly string[]): ReadonlyMap<string, string> {
  const texts = new Map<string, string>();
  const dataset = source.dataset === null ? null : selectDataset(sql, "id", source.dataset);
  if (dataset === null || source.revision === null) return texts;
  const text = `CASE WHEN length(input) > ${MAX_TEXT} THEN substr(input, 1, ${MAX_TEXT}) || '…' ELSE input END AS text`;
  const query = rowsAt(dataset, source.revision, text, "id = ?3 AND typeof(input) = 'text'");
  for (const id of ids) {
    const row = sql.exec<{ text: string }>(query, source.dataset, source.revision, id).toArray()[0];
    if (row !== undefined) texts.set(id, row.text);
  }
  return texts;
}

/** Nothing is wrong with a duplicate. */
function readIssues(sql: SqlStorage, dataset: DatasetRow): readonly DatasetIssue[] {
  const list = findIssueList(sql, dataset.id);
  if (list === null) return [];
  const issues: DatasetIssue[] = [];
  for (const issue of readOpenIssues(sql, dataset, list, Number.MAX_SAFE_INTEGER, undefined)) {
    if (issue.type !== "duplicate") issues.push(issue);
    if (issues.length === MAX_ISSUES) break;
  }
  return issues;
}
