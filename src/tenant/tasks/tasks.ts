/**
 * Everything that is due later, in one table, drained by the Durable Object's one alarm. A row is written in the same
 * transaction as the change it follows from, so it is lost only if that change is. Work may run twice and must then
 * have the effect of once. A row that fails is tried again later, further apart each time; it never holds up others.
 */
export type DueKind =
  | "publish_head"
  | "delete_bytes"
  | "publish_backbone"
  | "delete_backbone"
  | "delete_block"
  | "delete_blocks"
  | "delete_file"
  | "expire_import"
  | "expire_answers"
  | "job"
  | "submit_jobs"
  | "delete_artifacts"
  | "deliver"
  | "delete_deliveries"
  | "expire_events"
  | "retrain"
  | "sweep";

/** KV deletes one key an operation. */
export const DELETES_A_RUN = 400;

export interface Due {
  readonly id: number;
  readonly kind: DueKind;
  readonly ref: string;
  readonly attempts: number;
}

/** The time of work that goes ahead of all else that is due; an alarm cannot be set to 0. */
export const FIRST_OF_ALL = 1;

/** Rows run in one alarm; the rest follow in the next, at once. */
const BATCH = 50;
/** Calls of KV and R2 that the platform allows an alarm are 1,000; some are kept back for a sweep's longer listings. */
const OPERATIONS = 900;
/** The most that each kind of work makes; 1 for what a newer Worker wrote. */
const operations: Readonly<Record<DueKind, number>> = {
  publish_head: 2,
  delete_bytes: 2,
  publish_backbone: 2,
  delete_backbone: 2,
  delete_block: 1,
  delete_blocks: DELETES_A_RUN + 2,
  delete_file: 1,
  expire_import: 0,
  expire_answers: 0,
  job: 1,
  submit_jobs: 1,
  delete_artifacts: 20,
  deliver: 0,
  delete_deliveries: 0,
  expire_events: 0,
  retrain: 1,
  sweep: DELETES_A_RUN + 20,
};
const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 3_600_000;

/**
 * Adds work at `runAt` (milliseconds), or moves it there when the same work already waits for a later time. The row is
 * a new one in either case, so that what is asked for while the same work runs does not end with that run.
 */
export function schedule(sql: SqlStorage, kind: DueKind, ref: string, runAt: number): void {
  sql.exec(
    "INSERT OR REPLACE INTO due (kind, ref, run_at) VALUES (?1, ?2, min(?3, coalesce((SELECT run_at FROM due WHERE kind = ?1 AND ref = ?2), ?3)))",
    kind,
    ref,
    runAt,
  );
}

/**
 * Sets the alarm to the earliest row; without rows there is no alarm. Nothing is awaited before it is set: only then
 * does the platform commit it together with the rows just written.
 */
export async function arm(storage: DurableObjectStorage): Promise<void> {
  const next = storage.sql.exec<{ run_at: number | null }>("SELECT min(run_at) AS run_at FROM due").one().run_at;
  if (next !== null) await storage.setAlarm(next);
}

/**
 * Work that waits for other systems: it runs beside the rest, of each kind so many at a time, and holds up nothing, nor
 * does one kind another. `deliver` is not of these: it only sets going what goes on by itself (pump.ts).
 */
const OUTWARD_AT_ONCE: Readonly<Partial<Record<DueKind, number>>> = { job: 3, submit_jobs: 1, retrain: 1 };
/** How long an alarm waits for it; what takes longer goes on after the alarm, and is put off should it be lost. */
const PATIENCE_MS = 1_000;
/** When work is looked at again that found no room beside others of its kind. */
const AGAIN_MS = 1_000;
/** When at the latest, where it runs already: with the end of that it is due at once. */
const UNDER_WAY_MS = 60_000;

/** Work under way in this object, by kind and reference, and whether it was due again meanwhile. */
export type Running = Map<string, { dueAgain: boolean }>;

/**
 * Runs what is due at `now` (milliseconds), as much as one alarm may. `run` answers when the same work is due again, or null when it is done.
 * Failures are reported to `failed` and retried; nothing is thrown. `done` is called where work ends after the alarm.
 */
export async function drain(
  storage: DurableObjectStorage,
  now: number,
  run: (due: Due) => Promise<number | null>,
  failed: (due: Due, error: unknown) => void,
  running: Running = new Map(),
  done: () => Promise<void> = async () => undefined,
): Promise<void> {
  const { sql } = storage;
  const rows = sql
    .exec<{ id: number; kind: DueKind; ref: string; attempts: number }>(
      "SELECT id, kind, ref, attempts FROM due WHERE run_at <= ? ORDER BY run_at LIMIT ?",
      now,
      BATCH,
    )
    .toArray();
  const outward: Promise<void>[] = [];
  let left = OPERATIONS;
  for (const row of rows) {
    const name = `${row.kind}\n${row.ref}`;
    const atOnce = OUTWARD_AT_ONCE[row.kind];
    const underWay = running.get(name);
    if (underWay || (atOnce !== undefined && ofKind(running, row.kind) >= atOnce)) {
      if (underWay) underWay.dueAgain = true;
      sql.exec("UPDATE due SET run_at = ? WHERE id = ?", now + (underWay ? UNDER_WAY_MS : AGAIN_MS), row.id);
      continue;
    }
    left -= operations[row.kind] ?? 1;
    if (left < 0) break;
    // The retry is written before the attempt, so that work which takes the isolate down with it is put off as well.
    const wait = Math.min(FIRST_RETRY_MS * 4 ** row.attempts, LAST_RETRY_MS);
    sql.exec("UPDATE due SET attempts = attempts + 1, run_at = ? WHERE id = ?", now + wait, row.id);
    const state = { dueAgain: false };
    const work = runRow(sql, row, run, failed, state, now);
    if (atOnce === undefined) {
      await work;
      continue;
    }
    running.set(name, state);
    outward.push(work.finally(() => running.delete(name)).then(done));
  }
  if (outward.length > 0) await Promise.race([Promise.all(outward), scheduler.wait(PATIENCE_MS)]);
}

function ofKind(running: Running, kind: DueKind): number {
  return [...running.keys()].filter((name) => name.startsWith(`${kind}\n`)).length;
}

async function runRow(
  sql: SqlStorage,
  row: Due,
  run: (due: Due) => Promise<number | null>,
  failed: (due: Due, error: unknown) => void,
  state: { readonly dueAgain: boolean },
  now: number,
): Promise<void> {
  try {
    const again = await run(row);
    if (again === null) sql.exec("DELETE FROM due WHERE id = ?", row.id);
    else sql.exec("UPDATE due SET attempts = 0, run_at = ? WHERE id = ?", again, row.id);
    // What was asked for meanwhile is a row of its own.
    if (state.dueAgain)
      sql.exec("UPDATE due SET run_at = ? WHERE kind = ? AND ref = ? AND id <> ?", now, row.kind, row.ref, row.id);
  } catch (error) {
    failed(row, error);
  }
}
