/** Feedback and corrections: a new label replaces the older one of the same input or the same id. */

import type { StoredExample } from "../../api/examples.ts";
import type { HeadFeedback } from "../../api/feedback.ts";
import type { InboundHook } from "../../api/inbound-hooks.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { newId } from "../../lib/id.ts";
import { toSeconds } from "../../lib/time.ts";
import { checkLabelLimit, countLabels, type DatasetRow, findDataset, incrementRevision } from "../data/datasets.ts";
import { recordPredictionOutcomes } from "./drift.ts";
import { getFeedbackTarget, getPolicy } from "./policies.ts";
import { scheduleDueRetrainings } from "./retraining-context.ts";

/** What a version of a head predicted for an example before it was learned: right or wrong. */
export interface PredictionOutcome {
  readonly head: string;
  readonly version: number;
  readonly isCorrect: boolean;
}

export interface FeedbackExample {
  readonly example: StoredExample;
  readonly outcomes: readonly PredictionOutcome[];
}

export interface UpsertResult {
  readonly id: string;
  readonly outcome: "added" | "updated" | "unchanged";
  /** Whether no example had this input, so that no version was trained on it. */
  readonly isNewInput: boolean;
}

interface Row extends Record<string, SqlStorageValue> {
  position: number;
  id: string;
  same_input: number;
  same_content: number;
}

/**
 * Adds an example, or replaces those with its id or its input by it. It takes the position of the one with its id, or
 * else of the oldest one, so that the stored embedding of an equal input stays valid.
 */
function upsertExample(sql: SqlStorage, dataset: DatasetRow, example: StoredExample, now: number): UpsertResult {
  const { id: requestedId, inputHash, groupHash, contentHash, input, target } = example;
  const rows = sql
    .exec<Row>(
      "SELECT position, id, input_hash = ?2 AS same_input, content_hash = ?3 AS same_content FROM examples WHERE dataset = ?1 AND (id = ?4 OR input_hash = ?2) ORDER BY coalesce(id = ?4, 0) DESC, position",
      dataset.id,
      inputHash,
      contentHash,
      requestedId,
    )
    .toArray();
  const isNewInput = rows.every(({ same_input }) => same_input === 0);
  const [first, ...others] = rows;
  if (first === undefined) {
    const id = requestedId ?? newId("ex_");
    const { next } = sql
      .exec<{ next: number }>(
        "UPDATE datasets SET next_position = max(next_position, (SELECT coalesce(max(position) + 1, 0) FROM examples WHERE dataset = ?1)) + 1 WHERE id = ?1 RETURNING next_position AS next",
        dataset.id,
      )
      .one();
    sql.exec(
      "INSERT INTO examples (dataset, position, id, input_hash, group_hash, content_hash, input, target, created_at, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      dataset.id,
      next - 1,
      id,
      inputHash,
      groupHash,
      contentHash,
      input,
      target,
      toSeconds(now),
      dataset.revision + 1,
    );
    return { id, outcome: "added", isNewInput };
  }
  if (first.same_content === 1 && others.length === 0) return { id: first.id, outcome: "unchanged", isNewInput };
  for (const { position } of others)
    sql.exec("DELETE FROM examples WHERE dataset = ? AND position = ?", dataset.id, position);
  const id = requestedId ?? first.id;
  sql.exec(
    "UPDATE examples SET id = ?, input_hash = ?, group_hash = ?, content_hash = ?, input = ?, target = ?, revision = ? WHERE dataset = ? AND position = ?",
    id,
    inputHash,
    groupHash,
    contentHash,
    input,
    target,
    dataset.revision + 1,
    dataset.id,
    first.position,
  );
  return { id, outcome: "updated", isNewInput };
}

/** Whether the dataset has examples of all these labels. Fails if it has not and unknown labels are rejected. */
function checkTarget(
  sql: SqlStorage,
  dataset: DatasetRow,
  target: string,
  onUnknownLabel: NonNullable<InboundHook["on_unknown_label"]>,
): Result<boolean> {
  if (dataset.task === "regression") return ok(true);
  const exists = (query: string, ...values: string[]) => sql.exec(query, dataset.id, ...values).toArray().length > 0;
  if (exists("SELECT 1 FROM examples WHERE dataset = ? AND target = ? LIMIT 1", target)) return ok(true);
  if (onUnknownLabel === "add" || !exists("SELECT 1 FROM examples WHERE dataset = ? LIMIT 1")) return ok(false);
  const labels = countLabels(sql, dataset);
  const targetLabels: string[] = dataset.task === "single_label" ? [JSON.parse(target)] : JSON.parse(target);
  const unknownLabel = targetLabels.find(
    (label) => !Object.hasOwn(labels, label) && label !== dataset.out_of_scope_label,
  );
  if (unknownLabel === undefined) return ok(false);
  return fail(
    "invalid_label",
    `No example of dataset '${dataset.name}' has the label '${unknownLabel.slice(0, 100)}'. Add an example of it first, or make the hook with 'on_unknown_label': "add".`,
    { param: dataset.task === "single_label" ? "fields.label" : "fields.labels" },
  );
}

/**
 * Adds or replaces examples of a dataset, records how heads predicted them before, and schedules the retraining that is
 * due then. Call it in a transaction that is rolled back on failure.
 */
export function upsertExamples(
  sql: SqlStorage,
  { id, name }: DatasetRow,
  examples: readonly FeedbackExample[],
  onUnknownLabel: NonNullable<InboundHook["on_unknown_label"]>,
  now: number,
): Result<readonly UpsertResult[]> {
  const datasetRow = findDataset(sql, name);
  if (!datasetRow.ok || datasetRow.value.id !== id) return fail("not_found", `No dataset '${name}'.`);
  const results: UpsertResult[] = [];
  let hasNewLabels = false;
  const outcomesByHead = new Map<string, { head: string; version: number; outcomes: boolean[] }>();
  for (const { example, outcomes: exampleOutcomes } of examples) {
    const targetCheck = checkTarget(sql, datasetRow.value, example.target, onUnknownLabel);
    if (!targetCheck.ok) return targetCheck;
    hasNewLabels ||= !targetCheck.value;
    const result = upsertExample(sql, datasetRow.value, example, now);
    results.push(result);
    for (const { head, version, isCorrect } of result.isNewInput ? exampleOutcomes : []) {
      const headOutcomes = outcomesByHead.get(head) ?? { head, version, outcomes: [] };
      headOutcomes.outcomes.push(isCorrect);
      outcomesByHead.set(head, headOutcomes);
    }
  }
  if (results.some(({ outcome }) => outcome !== "unchanged")) {
    const sizeCheck = checkSize(sql, name, hasNewLabels);
    if (!sizeCheck.ok) return sizeCheck;
    incrementRevision(sql, id, now);
    scheduleDueRetrainings(sql, id, now);
  }
  for (const { head, version, outcomes } of outcomesByHead.values())
    recordPredictionOutcomes(sql, head, version, outcomes, now);
  return ok(results);
}

/** Refuses a change that made the dataset too large. */
function checkSize(sql: SqlStorage, name: string, hasNewLabels: boolean): Result<null> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  const limit = limits.examples_per_dataset;
  // Positions only rise, so below the limit the examples need not be counted.
  if (dataset.value.next_position > limit) {
    const { n } = sql
      .exec<{ n: number }>("SELECT count(*) AS n FROM examples WHERE dataset = ?", dataset.value.id)
      .one();
    if (n > limit) {
      const message = `A dataset holds at most ${limit} examples; with these it would hold ${n}.`;
      return fail("limit_exceeded", message, { details: { limit, actual: n } });
    }
  }
  return hasNewLabels ? checkLabelLimit(sql, dataset.value) : ok(null);
}

export interface FeedbackBatch {
  /** The dataset and the version that the examples were checked against. */
  readonly dataset: DatasetRow;
  readonly version: number;
  readonly examples: readonly FeedbackExample[];
  readonly rejections: Pick<HeadFeedback, "rejected" | "errors">;
}

/** Adds examples to the dataset of a head's active version. */
export function recordFeedback(
  sql: SqlStorage,
  name: string,
  { dataset, version, examples, rejections }: FeedbackBatch,
  now: number,
): Result<HeadFeedback> {
  const target = getFeedbackTarget(sql, name);
  if (!target.ok) return target;
  if (target.value.dataset.id !== dataset.id)
    return fail("dataset_changed", `Head '${name}' learns into another dataset since. Send the examples again.`, {
      retryAfter: 1,
    });
  const results = upsertExamples(sql, dataset, examples, "add", now);
  if (!results.ok) return results;
  const count = (outcome: UpsertResult["outcome"]) => results.value.filter((one) => one.outcome === outcome).length;
  const scoredOutcomes = examples.flatMap(({ outcomes }, i) => (results.value[i]?.isNewInput ? outcomes : []));
  const policy = getPolicy(sql, name);
  if (!policy.ok) return policy;
  return ok({
    object: "head.feedback",
    id: name,
    head: name,
    version,
    added: count("added"),
    updated: count("updated"),
    unchanged: count("unchanged"),
    ...rejections,
    judged: scoredOutcomes.length,
    hits: scoredOutcomes.filter(({ isCorrect }) => isCorrect).length,
    policy: policy.value,
  });
}
