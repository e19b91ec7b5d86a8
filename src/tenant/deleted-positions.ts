/**
 * Where deleted objects stood in their lists, for a day: a client that deletes what it lists goes on after the last one.
 * Triggers write the rows (schema.ts), so no deletion can forget it.
 */
import { toSeconds } from "../lib/time.ts";
import { DAY_MS } from "./tasks/tasks.ts";

/** The tables whose rows are listed and can be deleted, with the columns that hold an object's id and its number. */
const listedTables = {
  api_keys: { id: "id", number: "rowid" },
  datasets: { id: "name", number: "id" },
  heads: { id: "name", number: "id" },
  files: { id: "id", number: "number" },
  jobs: { id: "id", number: "number" },
  webhook_endpoints: { id: "id", number: "number" },
  deliveries: { id: "id", number: "number" },
  inbound_hooks: { id: "id", number: "number" },
  evaluations: { id: "id", number: "number" },
  recommendations: { id: "id", number: "number" },
} as const;

/** The number of the row that is listed under an id, or was until it was deleted; null if none is known. */
export function findListPosition(sql: SqlStorage, table: keyof typeof listedTables, id: string): number | null {
  const columns = listedTables[table];
  const query = `SELECT ${columns.number} AS position FROM ${table} WHERE ${columns.id} = ?2
    UNION ALL SELECT position FROM deleted_positions WHERE list = ?1 AND id = ?2 LIMIT 1`;
  return sql.exec<{ position: number }>(query, table, id).toArray()[0]?.position ?? null;
}

const MAX_ROWS_PER_DELETION = 1_000;

/** Deletes a bounded number of positions that have been kept for a day. Answers whether some may be left. */
export function deleteOldPositions(sql: SqlStorage, now: number): boolean {
  const batch = "SELECT list, id FROM deleted_positions WHERE deleted_at <= ? LIMIT ?";
  const query = `DELETE FROM deleted_positions WHERE (list, id) IN (${batch}) RETURNING 1`;
  const deleted = sql.exec(query, toSeconds(now - DAY_MS), MAX_ROWS_PER_DELETION).toArray().length;
  return deleted === MAX_ROWS_PER_DELETION;
}
