/** Recommendations for datasets. They hold figures and labels, no texts, and go with their dataset. */
import type { List } from "../../api/lists.ts";
import type { Recommendation, RecommendationPageRequest } from "../../api/recommendations.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import { findListPosition } from "../deleted-positions.ts";
import { paginate } from "../page.ts";

/** A recommendation before it is stored. */
export type NewRecommendationRecord = Omit<Recommendation, "object" | "created_at">;

interface RecommendationRow extends Record<string, SqlStorageValue> {
  number: number;
  id: string;
  record: string;
}

/** Stores a recommendation for a dataset, by the dataset's number. The oldest ones go where there are too many. */
export function addRecommendation(
  sql: SqlStorage,
  dataset: number,
  record: NewRecommendationRecord,
  now: number,
): Result<Recommendation> {
  const { name } = record.dataset;
  const exists = sql.exec("SELECT 1 FROM datasets WHERE id = ?", dataset).toArray().length > 0;
  if (!exists) return fail("not_found", `Dataset '${name}' was deleted.`, { param: "dataset" });
  const recommendation: Recommendation = { object: "recommendation", ...record, created_at: toSeconds(now) };
  const json = JSON.stringify(recommendation);
  const [limit, actual] = [limits.head_record_bytes, Buffer.byteLength(json)];
  if (actual > limit) {
    const message = `A recommendation has at most ${limit} bytes as JSON; this one has ${actual}. Use fewer or shorter labels.`;
    return fail("limit_exceeded", message, { details: { limit, actual } });
  }
  sql.exec(
    "INSERT INTO recommendations (id, dataset, record, bytes) VALUES (?, ?, ?, ?)",
    record.id,
    dataset,
    json,
    actual,
  );
  deleteOldRecommendations(sql);
  return ok(recommendation);
}

/** Keeps the newest, as many as the limits allow: at least the newest one. */
function deleteOldRecommendations(sql: SqlStorage): void {
  sql.exec(
    `DELETE FROM recommendations WHERE number IN (SELECT number FROM (
      SELECT number, row_number() OVER newest AS place, sum(bytes) OVER newest AS total FROM recommendations
      WINDOW newest AS (ORDER BY number DESC)
    ) WHERE place > 1 AND (place > ?1 OR total > ?2))`,
    limits.recommendations,
    limits.recommendation_bytes,
  );
}

export function getRecommendation(sql: SqlStorage, id: string): Result<Recommendation> {
  const row = sql.exec<RecommendationRow>("SELECT * FROM recommendations WHERE id = ?", id).toArray()[0];
  return row ? ok(toRecommendation(row)) : fail("not_found", `No recommendation '${id}'.`);
}

function toRecommendation({ record }: Pick<RecommendationRow, "record">): Recommendation {
  return JSON.parse(record) as Recommendation;
}

/** The newest recommendation for a dataset, by its number; null without one. */
export function findNewestRecommendation(sql: SqlStorage, dataset: number): Recommendation | null {
  const query = "SELECT * FROM recommendations WHERE dataset = ? ORDER BY number DESC LIMIT 1";
  const row = sql.exec<RecommendationRow>(query, dataset).toArray()[0];
  return row ? toRecommendation(row) : null;
}

/** Lists recommendations, for one dataset if it is named. A name that nothing has finds none. */
export function listRecommendations(
  sql: SqlStorage,
  { dataset, ...request }: RecommendationPageRequest,
): Result<List<Recommendation>> {
  const where = "number < ?1 AND (?3 IS NULL OR dataset = (SELECT id FROM datasets WHERE name = ?3))";
  return paginate(request, {
    findPosition: (id) => findListPosition(sql, "recommendations", id),
    readRows: (cursor, count) =>
      sql.exec<RecommendationRow>(
        `SELECT * FROM recommendations WHERE ${where} ORDER BY number DESC LIMIT ?2`,
        cursor,
        count,
        dataset ?? null,
      ),
    toObject: toRecommendation,
  });
}

/** Replaces what a recommendation says, once it was measured. One that is gone stays so. */
export function replaceRecommendation(sql: SqlStorage, recommendation: Recommendation): void {
  const json = JSON.stringify(recommendation);
  sql.exec(
    "UPDATE recommendations SET record = ?, bytes = ? WHERE id = ?",
    json,
    Buffer.byteLength(json),
    recommendation.id,
  );
}

export function deleteRecommendationsOfDataset(sql: SqlStorage, dataset: number): void {
  sql.exec("DELETE FROM recommendations WHERE dataset = ?", dataset);
}

export function countRecommendations(sql: SqlStorage): { recommendations: number; recommendation_bytes: number } {
  return sql
    .exec<{ recommendations: number; recommendation_bytes: number }>(
      "SELECT count(*) AS recommendations, coalesce(sum(bytes), 0) AS recommendation_bytes FROM recommendations",
    )
    .one();
}
