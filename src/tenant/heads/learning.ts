/** Feedback and corrections: the newer label takes the place of an older one for the same input, or the same id. */

import { type Code, fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { newId } from "../../lib/id.ts";
import { checkLabels, countLabels, type DatasetRow, findDataset, touch } from "../data/datasets.ts";
import type { StoredExample } from "../data/examples.ts";
import { considerRetraining, getPolicy, noteHits, openFeedback, type PolicyObject } from "./policies.ts";

/** Whether a label that no example of the data set has yet is taken. */
export type UnknownLabel = "reject" | "add";

/** Which head's version predicted an example before it is learnt, and whether it was right. */
export interface Hit {
  readonly head: string;
  readonly version: number;
  readonly hit: boolean;
}

export interface NewLearning {
  readonly example: StoredExample;
  readonly hits: readonly Hit[];
}

export interface Learnt {
  readonly id: string;
  readonly outcome: "added" | "updated" | "unchanged";
  /** Whether its input stood in no example before: no version has been trained on it. */
  readonly unseen: boolean;
}

interface Row extends Record<string, SqlStorageValue> {
  position: number;
  id: string;
  same_input: number;
  same_content: number;
}

/**
 * Learns one example. Of the examples with its id or its input one stays, in the place of that with the id or else of the
 * oldest, so that its embedding is kept where its input is the same.
 */
function learnOne(sql: SqlStorage, dataset: DatasetRow, example: StoredExample, now: number): Learnt {
  const { id: given, inputHash, groupHash, contentHash, input, target } = example;
  const rows = sql
    .exec<Row>(
      "SELECT position, id, input_hash = ?2 AS same_input, content_hash = ?3 AS same_content FROM examples WHERE dataset = ?1 AND (id = ?4 OR input_hash = ?2) ORDER BY coalesce(id = ?4, 0) DESC, position",
      dataset.id,
      inputHash,
      contentHash,
      given,
    )
    .toArray();
  const unseen = rows.every(({ same_input }) => same_input === 0);
  const [first, ...others] = rows;
  if (first === undefined) {
    const id = given ?? newId("ex_");
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
      now,
      dataset.revision + 1,
    );
    return { id, outcome: "added", unseen };
  }
  if (first.same_content === 1 && others.length === 0) return { id: first.id, outcome: "unchanged", unseen };
  for (const { position } of others)
    sql.exec("DELETE FROM examples WHERE dataset = ? AND position = ?", dataset.id, position);
  const id = given ?? first.id;
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
  return { id, outcome: "updated", unseen };
}

/** Whether an example's labels are all known from examples before it; refused where they are not and have to be. */
function checkTarget(sql: SqlStorage, dataset: DatasetRow, target: string, unknown: UnknownLabel): Result<boolean> {
  if (dataset.task === "regression") return ok(true);
  const found = (query: string, ...values: string[]) => sql.exec(query, dataset.id, ...values).toArray().length > 0;
  if (found("SELECT 1 FROM examples WHERE dataset = ? AND target = ? LIMIT 1", target)) return ok(true);
  if (unknown === "add" || !found("SELECT 1 FROM examples WHERE dataset = ? LIMIT 1")) return ok(false);
  const labels = countLabels(sql, dataset);
  const wanted: string[] = dataset.task === "single_label" ? [JSON.parse(target)] : JSON.parse(target);
  const strange = wanted.find((label) => !Object.hasOwn(labels, label) && label !== dataset.out_of_scope_label);
  if (strange === undefined) return ok(false);
  return fail(
    "invalid_label",
    `No example of dataset '${dataset.name}' has the label '${strange.slice(0, 100)}'. Add an example of it first, or make the hook with 'on_unknown_label': "add".`,
    { param: dataset.task === "single_label" ? "fields.label" : "fields.labels" },
  );
}

/**
 * Learns examples of a data set, notes how heads did on them before, and schedules the retraining that they call for.
 * `now` in seconds; call it in a transaction that is rolled back on failure.
 */
export function learn(
  sql: SqlStorage,
  { id, name }: DatasetRow,
  examples: readonly NewLearning[],
  unknown: UnknownLabel,
  now: number,
): Result<readonly Learnt[]> {
  const found = findDataset(sql, name);
  if (!found.ok || found.value.id !== id) return fail("not_found", `No dataset '${name}'.`);
  const learnt: Learnt[] = [];
  let grown = false;
  const hits = new Map<string, { head: string; version: number; hits: boolean[] }>();
  for (const { example, hits: told } of examples) {
    const checked = checkTarget(sql, found.value, example.target, unknown);
    if (!checked.ok) return checked;
    grown ||= !checked.value;
    const one = learnOne(sql, found.value, example, now);
    learnt.push(one);
    for (const { head, version, hit } of one.unseen ? told : []) {
      const of = hits.get(head) ?? { head, version, hits: [] };
      of.hits.push(hit);
      hits.set(head, of);
    }
  }
  if (learnt.some(({ outcome }) => outcome !== "unchanged")) {
    const within = checkSize(sql, name, grown);
    if (!within.ok) return within;
    touch(sql, id, now);
    considerRetraining(sql, id, now);
  }
  for (const { head, version, hits: of } of hits.values()) noteHits(sql, head, version, of, now);
  return ok(learnt);
}

/** Refuses a change that has made a data set too large; `grown`: it may have labels that it did not have before. */
function checkSize(sql: SqlStorage, name: string, grown: boolean): Result<null> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  const limit = limits.examples_per_dataset;
  // Positions are counted up, so below the limit there is no need to count examples.
  if (dataset.value.next_position > limit) {
    const { n } = sql
      .exec<{ n: number }>("SELECT count(*) AS n FROM examples WHERE dataset = ?", dataset.value.id)
      .one();
    if (n > limit) {
      const message = `A dataset holds at most ${limit} examples; with these it would hold ${n}.`;
      return fail("limit_exceeded", message, { details: { limit, actual: n } });
    }
  }
  return grown ? checkLabels(sql, dataset.value) : ok(null);
}

/** What of a request's examples cannot be learnt. */
export interface Rejected {
  readonly rejected: number;
  readonly errors: readonly { readonly line: number; readonly code: Code; readonly message: string }[];
}

export interface Feedback extends Rejected {
  readonly object: "head.feedback";
  readonly id: string;
  readonly head: string;
  readonly version: number;
  readonly added: number;
  readonly updated: number;
  readonly unchanged: number;
  readonly judged: number;
  readonly hits: number;
  readonly policy: PolicyObject;
}

/** Learns examples into the data set of a head's active version. */
export function giveFeedback(
  sql: SqlStorage,
  name: string,
  dataset: DatasetRow,
  version: number,
  examples: readonly NewLearning[],
  rejected: Rejected,
  now: number,
): Result<Feedback> {
  const open = openFeedback(sql, name);
  if (!open.ok) return open;
  if (open.value.dataset.id !== dataset.id)
    return fail("dataset_changed", `Head '${name}' learns into another dataset since. Send the examples again.`, {
      retryAfter: 1,
    });
  const learnt = learn(sql, dataset, examples, "add", now);
  if (!learnt.ok) return learnt;
  const count = (outcome: Learnt["outcome"]) => learnt.value.filter((one) => one.outcome === outcome).length;
  const judged = examples.flatMap(({ hits }, i) => (learnt.value[i]?.unseen ? hits : []));
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
    ...rejected,
    judged: judged.length,
    hits: judged.filter(({ hit }) => hit).length,
    policy: policy.value,
  });
}
