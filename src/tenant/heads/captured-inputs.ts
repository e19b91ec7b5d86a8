/** The captured inputs of a head: their list, and the labels that make them examples. */
import type { CapturedInput, CapturedPrediction } from "../../api/capture.ts";
import type { HeadFeedback } from "../../api/feedback.ts";
import type { List, PageRequest } from "../../api/lists.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { toSeconds } from "../../lib/time.ts";
import type { DatasetRow } from "../data/datasets.ts";
import { paginate } from "../page.ts";
import { findHeadNumber, toNumber } from "./capture.ts";
import { type FeedbackBatch, recordFeedback } from "./feedback.ts";
import { getFeedbackTarget } from "./policies.ts";

interface CapturedRow extends Record<string, SqlStorageValue> {
  number: number;
  version: number;
  input: string | ArrayBuffer;
  prediction: string;
  created_at: number;
  expires_at: number;
}

function toCapturedInput(head: string, { number, version, input, ...row }: CapturedRow): CapturedInput {
  return {
    object: "captured_input",
    id: `cap_${number}`,
    head,
    version,
    ...(typeof input === "string" ? { text: input } : { embedding: Array.from(new Float32Array(input)) }),
    prediction: JSON.parse(row.prediction) as CapturedPrediction,
    created_at: row.created_at,
    expires_at: row.expires_at,
  };
}

export function listCaptured(
  sql: SqlStorage,
  name: string,
  request: PageRequest,
  now: number,
): Result<List<CapturedInput>> {
  const head = findHeadNumber(sql, name);
  if (!head.ok) return head;
  const query = `SELECT number, version, input, prediction, created_at, expires_at FROM captured_inputs
    WHERE head = ? AND expires_at > ? AND number < ? ORDER BY number DESC LIMIT ?`;
  return paginate(request, {
    findPosition: (id) => findPosition(sql, id),
    readRows: (cursor, count) => sql.exec<CapturedRow>(query, head.value, toSeconds(now), cursor, count),
    toObject: (row) => toCapturedInput(name, row),
  });
}

/** Also where an input has been labelled or deleted since. */
function findPosition(sql: SqlStorage, id: string): number | null {
  const number = toNumber(id);
  const query = "SELECT 1 FROM sqlite_sequence WHERE name = 'captured_inputs' AND seq >= ?";
  return number !== null && sql.exec(query, number).toArray().length > 0 ? number : null;
}

/** What captured inputs are labelled with: where their examples go, and each input by its id; null if there is none. */
export interface LabellingTarget {
  readonly dataset: DatasetRow;
  readonly version: number;
  readonly inputs: readonly (string | ArrayBuffer | null)[];
}

export function readLabellingTarget(
  sql: SqlStorage,
  name: string,
  ids: readonly string[],
  now: number,
): Result<LabellingTarget> {
  const head = findHeadNumber(sql, name);
  if (!head.ok) return head;
  const target = getFeedbackTarget(sql, name);
  if (!target.ok) return target;
  const query = "SELECT input FROM captured_inputs WHERE number = ? AND head = ? AND expires_at > ?";
  const inputs = ids.map((id) => {
    const number = toNumber(id);
    if (number === null) return null;
    return sql.exec<CapturedRow>(query, number, head.value, toSeconds(now)).toArray()[0]?.input ?? null;
  });
  return ok({ ...target.value, inputs });
}

/**
 * Makes captured inputs examples, as feedback does, and takes them from the queue. Fails if one is not there any more: it may
 * have been deleted for good. Call it in a transaction that is rolled back on failure.
 */
export function labelCaptured(
  sql: SqlStorage,
  name: string,
  ids: readonly string[],
  batch: FeedbackBatch,
  now: number,
): Result<HeadFeedback> {
  const head = findHeadNumber(sql, name);
  if (!head.ok) return head;
  const numbers = new Set(ids.map(toNumber));
  const removed = sql
    .exec(
      "DELETE FROM captured_inputs WHERE head = ? AND number IN (SELECT value FROM json_each(?)) RETURNING 1",
      ...[head.value, JSON.stringify([...numbers])],
    )
    .toArray();
  if (removed.length < numbers.size)
    return fail("dataset_changed", "Some of the inputs were labelled or deleted meanwhile. Send the labels again.", {
      retryAfter: 1,
    });
  return recordFeedback(sql, name, batch, now);
}
