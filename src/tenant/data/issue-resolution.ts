/**
 * What a person has decided about issues. All decisions of a request and the changes of examples that follow from them are
 * one transaction. A decision is remembered by the issue's id, which has the example's content in it, so what was
 * dismissed comes back only for another text or label.
 */
import type { IssueChange, Resolution } from "../../api/issues.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import type { ChangeReference } from "../idempotency.ts";
import { beginChanges, type Changes, changeTarget, commitChanges, eraseExample } from "./changes.ts";
import { type DatasetRow, findDataset, selectDataset, toDataset } from "./datasets.ts";
import { findIssueList, findUnchanged, type IssueRow } from "./issues.ts";

/** A decision whose target has been checked. */
export interface Decision extends Pick<Resolution, "id" | "action"> {
  /** JSON of the target to give the example; null for the one that is suggested. */
  readonly target: string | null;
}

interface Counts {
  updated: number;
  deleted: number;
  dismissed: number;
  unchanged: number;
}

/** Resolves issues. Fails, and changes nothing, if one of them is not known. */
export function resolveIssues(
  sql: SqlStorage,
  name: string,
  decisions: readonly Decision[],
  now: number,
): Result<IssueChange> {
  const found = findDataset(sql, name);
  if (!found.ok) return found;
  const dataset = found.value;
  const room = checkRoom(sql, dataset.id, decisions.length);
  if (!room.ok) return room;
  const changes = beginChanges(dataset);
  const counts: Counts = { updated: 0, deleted: 0, dismissed: 0, unchanged: 0 };
  const changed = new Set<number>();
  for (const [index, decision] of decisions.entries()) {
    const resolved = resolve(sql, changes, { decision, changed, counts, param: `items[${index}]` }, now);
    if (!resolved.ok) return resolved;
  }
  const committed = commitChanges(sql, changes, now);
  if (!committed.ok) return committed;
  return ok(toChange(sql, selectDataset(sql, "id", dataset.id) ?? dataset, counts, now));
}

function toChange(sql: SqlStorage, dataset: DatasetRow, counts: Counts, now: number): IssueChange {
  return { object: "dataset.change", id: dataset.name, ...counts, dataset: toDataset(sql, dataset, now) };
}

/** Refers to a change, in the place of an answer that shows the dataset with all its labels. */
export function referToResolution(sql: SqlStorage, change: IssueChange): ChangeReference {
  const { id, updated, deleted, dismissed, unchanged } = change;
  const dataset = selectDataset(sql, "name", id)?.id ?? 0;
  return { kind: "dataset_change", dataset, updated, deleted, dismissed, unchanged };
}

function checkRoom(sql: SqlStorage, dataset: number, more: number): Result<null> {
  const query = "SELECT count(*) AS n FROM resolved_issues WHERE dataset = ?";
  const actual = sql.exec<{ n: number }>(query, dataset).one().n + more;
  const limit = limits.resolved_issues;
  return actual <= limit
    ? ok(null)
    : fail("limit_exceeded", `At most ${limit} decisions on issues of a dataset are kept.`, {
        details: { limit, actual },
      });
}

interface Step {
  readonly decision: Decision;
  /** The positions that this request has changed. */
  readonly changed: Set<number>;
  readonly counts: Counts;
  readonly param: string;
}

function resolve(sql: SqlStorage, changes: Changes, step: Step, now: number): Result<null> {
  const { decision, changed, counts, param } = step;
  const { dataset } = changes;
  const issue = sql
    .exec<IssueRow>("SELECT * FROM issues WHERE dataset = ? AND id = ?", dataset.id, decision.id)
    .toArray()[0];
  const earlier = sql
    .exec<{ action: string }>(
      "SELECT action FROM resolved_issues WHERE dataset = ? AND id = ?",
      dataset.id,
      decision.id,
    )
    .toArray()[0];
  if (issue === undefined && earlier === undefined)
    return fail("not_found", `Dataset '${dataset.name}' has no issue '${decision.id}'. List its issues again.`, {
      param: `${param}.id`,
    });
  const revision = findIssueList(sql, dataset.id)?.revision ?? 0;
  const example = issue === undefined ? null : findUnchanged(sql, dataset, revision, issue.position);
  const isOpen = issue !== undefined && example !== null && !changed.has(issue.position);
  if (!isOpen || earlier?.action === decision.action) {
    counts.unchanged++;
    return ok(null);
  }
  const { position } = issue;
  if (decision.action === "relabel") {
    const target = decision.target ?? issue.target;
    if (target === null)
      return fail("missing_parameter", "Nothing is suggested for this issue. Say by 'label' what the label is.", {
        param: `${param}.label`,
      });
    changeTarget(sql, changes, position, () => target);
    counts.updated++;
  } else if (decision.action === "delete") {
    eraseExample(sql, changes, position, example.id, now);
    counts.deleted++;
  } else counts.dismissed++;
  if (decision.action !== "dismiss") changed.add(position);
  // After the deletion, which takes the decisions on its example with it.
  sql.exec(
    "INSERT OR REPLACE INTO resolved_issues (dataset, id, position, action, resolved_at) VALUES (?, ?, ?, ?, ?)",
    dataset.id,
    decision.id,
    position,
    decision.action,
    toSeconds(now),
  );
  return ok(null);
}
