/**
 * Everything that is due later, in one table, drained by the Durable Object's one alarm. A row is written in the same
 * transaction as the change it follows from, so it is lost only if that change is. Work may run twice and must then
 * have the effect of once. A row that fails is tried again later, further apart each time; it never holds up others.
 */
export type TaskKind =
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
export const MAX_DELETES_PER_RUN = 400;

export interface ScheduledTask {
  readonly id: number;
  readonly kind: TaskKind;
  readonly ref: string;
  readonly attempts: number;
}

/** The time of work that goes ahead of all else that is due; an alarm cannot be set to 0. */
export const EARLIEST_RUN_AT = 1;

/** Rows run in one alarm; the rest follow in the next, at once. */
const MAX_TASKS_PER_ALARM = 50;
/** Calls of KV and R2 that the platform allows an alarm are 1,000; some are kept back for a sweep's longer listings. */
const MAX_OPERATIONS_PER_ALARM = 900;
/** The most that each kind of work makes; 1 for what a newer Worker wrote. */
const operationsPerTask: Readonly<Record<TaskKind, number>> = {
  publish_head: 2,
  delete_bytes: 2,
  publish_backbone: 2,
  delete_backbone: 2,
  delete_block: 1,
  delete_blocks: MAX_DELETES_PER_RUN + 2,
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
  sweep: MAX_DELETES_PER_RUN + 20,
};
const INITIAL_BACKOFF_MS = 1_000;
const MAX_BACKOFF_MS = 3_600_000;

/**
 * Adds work at `runAt` (milliseconds), or moves it there when the same work already waits for a later time. The row is
 * a new one in either case, so that what is asked for while the same work runs does not end with that run.
 */
export function schedule(sql: SqlStorage, kind: TaskKind, ref: string, runAt: number): void {
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
export async function setNextAlarm(storage: DurableObjectStorage): Promise<void> {
  const next = storage.sql.exec<{ run_at: number | null }>("SELECT min(run_at) AS run_at FROM due").one().run_at;
  if (next !== null) await storage.setAlarm(next);
}

/**
 * Work that waits for other systems: it runs beside the rest, of each kind so many at a time, and holds up nothing, nor
 * does one kind another. `deliver` is not of these: it only sets going what goes on by itself (pump.ts).
 */
const MAX_CONCURRENT_TASKS: Readonly<Partial<Record<TaskKind, number>>> = { job: 3, submit_jobs: 1, retrain: 1 };
/** How long an alarm waits for it; what takes longer goes on after the alarm, and is put off should it be lost. */
const ALARM_WAIT_MS = 1_000;
/** When work is looked at again that found no room beside others of its kind. */
const CONCURRENCY_RETRY_MS = 1_000;
/** When at the latest, where it runs already: with the end of that it is due at once. */
const RUNNING_RETRY_MS = 60_000;

/** Work under way in this object, by kind and reference, and whether it was due again meanwhile. */
export type RunningTasks = Map<string, { isDueAgain: boolean }>;

/**
 * Runs what is due at `now` (milliseconds), as much as one alarm may. `run` answers when the same work is due again, or null when it is done.
 * Failures are reported to `failed` and retried; nothing is thrown. `done` is called where work ends after the alarm.
 */
export async function runDueTasks(
  storage: DurableObjectStorage,
  now: number,
  run: (task: ScheduledTask) => Promise<number | null>,
  onError: (task: ScheduledTask, error: unknown) => void,
  running: RunningTasks = new Map(),
  onComplete: () => Promise<void> = async () => undefined,
): Promise<void> {
  const { sql } = storage;
  const rows = sql
    .exec<{ id: number; kind: TaskKind; ref: string; attempts: number }>(
      "SELECT id, kind, ref, attempts FROM due WHERE run_at <= ? ORDER BY run_at LIMIT ?",
      now,
      MAX_TASKS_PER_ALARM,
    )
    .toArray();
  const concurrentRuns: Promise<void>[] = [];
  let operationsLeft = MAX_OPERATIONS_PER_ALARM;
  for (const row of rows) {
    const taskKey = `${row.kind}\n${row.ref}`;
    const maxConcurrent = MAX_CONCURRENT_TASKS[row.kind];
    const runningTask = running.get(taskKey);
    if (runningTask || (maxConcurrent !== undefined && countRunning(running, row.kind) >= maxConcurrent)) {
      if (runningTask) runningTask.isDueAgain = true;
      sql.exec(
        "UPDATE due SET run_at = ? WHERE id = ?",
        now + (runningTask ? RUNNING_RETRY_MS : CONCURRENCY_RETRY_MS),
        row.id,
      );
      continue;
    }
    operationsLeft -= operationsPerTask[row.kind] ?? 1;
    if (operationsLeft < 0) break;
    // The retry is written before the attempt, so that work which takes the isolate down with it is put off as well.
    const backoff = Math.min(INITIAL_BACKOFF_MS * 4 ** row.attempts, MAX_BACKOFF_MS);
    sql.exec("UPDATE due SET attempts = attempts + 1, run_at = ? WHERE id = ?", now + backoff, row.id);
    const state = { isDueAgain: false };
    const work = runTask(sql, row, run, onError, state, now);
    if (maxConcurrent === undefined) {
      await work;
      continue;
    }
    running.set(taskKey, state);
    concurrentRuns.push(work.finally(() => running.delete(taskKey)).then(onComplete));
  }
  if (concurrentRuns.length > 0) await Promise.race([Promise.all(concurrentRuns), scheduler.wait(ALARM_WAIT_MS)]);
}

function countRunning(running: RunningTasks, kind: TaskKind): number {
  return [...running.keys()].filter((name) => name.startsWith(`${kind}\n`)).length;
}

async function runTask(
  sql: SqlStorage,
  task: ScheduledTask,
  run: (task: ScheduledTask) => Promise<number | null>,
  onError: (task: ScheduledTask, error: unknown) => void,
  state: { readonly isDueAgain: boolean },
  now: number,
): Promise<void> {
  try {
    const nextRunAt = await run(task);
    if (nextRunAt === null) sql.exec("DELETE FROM due WHERE id = ?", task.id);
    else sql.exec("UPDATE due SET attempts = 0, run_at = ? WHERE id = ?", nextRunAt, task.id);
    // What was asked for meanwhile is a row of its own.
    if (state.isDueAgain)
      sql.exec("UPDATE due SET run_at = ? WHERE kind = ? AND ref = ? AND id <> ?", now, task.kind, task.ref, task.id);
  } catch (error) {
    onError(task, error);
  }
}
