/** Feedback and corrections: a new label replaces the older one of the same input or the same id. */

import type { StoredExample } from "../../api/examples.ts";
import type { HeadFeedback } from "../../api/feedback.ts";
import type { InboundHook } from "../../api/inbound-hooks.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { newId } from "../../lib/id.ts";
import {
  addExample,
  beginChanges,
  type Changes,
  commitChanges,
  removeExample,
  updateExample,
} from "../data/changes.ts";
import { type DatasetRow, findDataset } from "../data/datasets.ts";
import { hasLabel, labelsOf } from "../data/label-counts.ts";
import { recordPredictionOutcomes } from "./drift.ts";
import { getFeedbackTarget, getPolicy } from "./policies.ts";
import { countFeedback } from "./traffic-counts.ts";

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
function upsertExample(sql: SqlStorage, changes: Changes, example: StoredExample, now: number): UpsertResult {
  const { id: requestedId, inputHash, contentHash } = example;
  const rows = sql
    .exec<Row>(
      "SELECT position, id, input_hash = ?2 AS same_input, content_hash = ?3 AS same_content FROM examples WHERE dataset = ?1 AND (id = ?4 OR input_hash = ?2) ORDER BY coalesce(id = ?4, 0) DESC, position",
      changes.dataset.id,
      inputHash,
      contentHash,
      requestedId,
    )
    .toArray();
  const isNewInput = rows.every(({ same_input }) => same_input === 0);
  const [first, ...others] = rows;
  if (first === undefined) {
    const id = requestedId ?? newId("ex_");
    addExample(sql, changes, id, example, now);
    return { id, outcome: "added", isNewInput };
  }
  if (first.same_content === 1 && others.length === 0) return { id: first.id, outcome: "unchanged", isNewInput };
  for (const { position } of others) removeExample(sql, changes, position);
  const id = requestedId ?? first.id;
  updateExample(sql, changes, first.position, id, example);
  return { id, outcome: "updated", isNewInput };
}

/** Fails if unknown labels are rejected and the dataset has examples, but none of one of these labels. */
function checkTarget(
  sql: SqlStorage,
  dataset: DatasetRow,
  target: string,
  onUnknownLabel: NonNullable<InboundHook["on_unknown_label"]>,
): Result<null> {
  if (onUnknownLabel === "add" || dataset.examples === 0) return ok(null);
  const unknownLabel = labelsOf(dataset.task, target).find(
    (label) => label !== dataset.out_of_scope_label && !hasLabel(sql, dataset.id, label),
  );
  if (unknownLabel === undefined) return ok(null);
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
  const changes = beginChanges(datasetRow.value);
  const results: UpsertResult[] = [];
  const outcomesByVersion = new Map<string, { head: string; version: number; outcomes: boolean[] }>();
  for (const { example, outcomes: exampleOutcomes } of examples) {
    const targetCheck = checkTarget(sql, datasetRow.value, example.target, onUnknownLabel);
    if (!targetCheck.ok) return targetCheck;
    const result = upsertExample(sql, changes, example, now);
    results.push(result);
    for (const { head, version, isCorrect } of result.isNewInput ? exampleOutcomes : []) {
      const key = `${head}@${version}`;
      const versionOutcomes = outcomesByVersion.get(key) ?? { head, version, outcomes: [] };
      versionOutcomes.outcomes.push(isCorrect);
      outcomesByVersion.set(key, versionOutcomes);
    }
  }
  const committed = commitChanges(sql, changes, now);
  if (!committed.ok) return committed;
  for (const { head, version, outcomes } of outcomesByVersion.values()) {
    recordPredictionOutcomes(sql, head, version, outcomes, now);
    countFeedback(sql, head, version, outcomes, now);
  }
  return ok(results);
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
  // Versions that the head tries out are judged as well.
  const scoredOutcomes = examples.flatMap(({ outcomes }, i) =>
    results.value[i]?.isNewInput ? outcomes.filter((outcome) => outcome.version === version) : [],
  );
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
