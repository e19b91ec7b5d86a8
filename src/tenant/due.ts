/**
 * Everything that is due later, in one table, drained by the Durable Object's one alarm. A row is written in the same
 * transaction as the change it follows from, so it is lost only if that change is. Work may run twice and must then
 * have the effect of once. A row that fails is tried again later, further apart each time; it never holds up others.
 */
export type DueKind =
  | "publish_head"
  | "delete_bytes"
  | "delete_block"
  | "delete_blocks"
  | "expire_import"
  | "expire_answers"
  | "sweep";

export interface Due {
  readonly id: number;
  readonly kind: DueKind;
  readonly ref: string;
  readonly attempts: number;
}

/** Rows run in one alarm; the rest follow in the next, at once. */
const BATCH = 50;
const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 3_600_000;

/** Adds work at `runAt` (milliseconds), or moves it there when the same work already waits for a later time. */
export function schedule(sql: SqlStorage, kind: DueKind, ref: string, runAt: number): void {
  sql.exec(
    "INSERT INTO due (kind, ref, run_at) VALUES (?, ?, ?) ON CONFLICT (kind, ref) DO UPDATE SET run_at = min(run_at, excluded.run_at)",
    kind,
    ref,
    runAt,
  );
}

/** Sets the alarm to the earliest row; without rows there is no alarm. */
export async function arm(storage: DurableObjectStorage): Promise<void> {
  const next = storage.sql.exec<{ run_at: number | null }>("SELECT min(run_at) AS run_at FROM due").one().run_at;
  if (next === null) return;
  const current = await storage.getAlarm();
  if (current === null || current > next) await storage.setAlarm(next);
}

/**
 * Runs what is due at `now` (milliseconds). `run` answers when the same work is due again, or null when it is done.
 * Failures are reported to `failed` and retried; nothing is thrown.
 */
export async function drain(
  storage: DurableObjectStorage,
  now: number,
  run: (due: Due) => Promise<number | null>,
  failed: (due: Due, error: unknown) => void,
): Promise<void> {
  const rows = storage.sql
    .exec<{ id: number; kind: DueKind; ref: string; attempts: number; run_at: number }>(
      "SELECT id, kind, ref, attempts, run_at FROM due WHERE run_at <= ? ORDER BY run_at LIMIT ?",
      now,
      BATCH,
    )
    .toArray();
  for (const row of rows) {
    try {
      const again = await run(row);
      // Only the row as it was read: the same work asked for meanwhile stays due.
      if (again === null) storage.sql.exec("DELETE FROM due WHERE id = ? AND run_at = ?", row.id, row.run_at);
      else storage.sql.exec("UPDATE due SET attempts = 0, run_at = ? WHERE id = ?", again, row.id);
    } catch (error) {
      failed(row, error);
      const wait = Math.min(FIRST_RETRY_MS * 4 ** row.attempts, LAST_RETRY_MS);
      storage.sql.exec("UPDATE due SET attempts = attempts + 1, run_at = ? WHERE id = ?", now + wait, row.id);
    }
  }
}
