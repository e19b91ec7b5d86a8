/**
 * Tasks that run later: the rows of the table `due`, run by the Durable Object's one alarm. A task is written in the
 * transaction of the change that it follows from, so it is lost only together with that change. It may run twice and
 * must then have the same effect. A task that fails is retried after a wait that grows; it never delays the others.
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
  | "merge_import"
  | "edit_dataset"
  | "erase_examples"
  | "delete_staged"
  | "delete_examples"
  | "expire_history"
  | "expire_answers"
  | "job"
  | "submit_jobs"
  | "delete_artifacts"
  | "abort_upload"
  | "deliver"
  | "delete_deliveries"
  | "expire_events"
  | "expire_positions"
  | "encrypt_secrets"
  | "retrain"
  | "embed_dataset"
  | "delete_evaluation_errors"
  | "expire_captured"
  | "test_version"
  | "end_measurement"
  | "sweep";

/** KV takes one operation to delete a key. */
export const MAX_DELETES_PER_RUN = 400;

export interface ScheduledTask {
  readonly id: number;
  readonly kind: TaskKind;
  readonly ref: string;
  readonly attempts: number;
}

type TaskRow = ScheduledTask & Record<string, SqlStorageValue>;

export const DAY_MS = 24 * 3_600_000;

/** The time of tasks that go before all others; an alarm cannot be set to 0. */
export const EARLIEST_RUN_AT = 1;

/**
 * The Worker's calls by one run of `embed_dataset`, of which one runs at a time. The platform allows 32 calls of Workers
 * by one alarm.
 */
export const MAX_CALLS_PER_EMBEDDING = 16;
/** More tasks than this run in the next alarm, which follows at once. */
const MAX_TASKS_PER_ALARM = 50;
/** An alarm may make 1,000 calls of KV and R2. Some are left for the long listings of a sweep. */
const MAX_OPERATIONS_PER_ALARM = 900;
/** The most calls that each kind of task makes. A kind that a newer Worker wrote counts as 1. */
const operationsPerTask: Readonly<Record<TaskKind, number>> = {
  publish_head: 2,
  delete_bytes: 2,
  publish_backbone: 2,
  delete_backbone: 2,
  delete_block: 1,
  delete_blocks: MAX_DELETES_PER_RUN + 2,
  delete_file: 1,
  expire_import: 0,
  merge_import: 0,
  edit_dataset: 0,
  erase_examples: 0,
  delete_staged: 0,
  delete_examples: 0,
  expire_history: 0,
  expire_answers: 0,
  job: 1,
  submit_jobs: 1,
  delete_artifacts: 20,
  abort_upload: 1,
  deliver: 0,
  delete_deliveries: 0,
  expire_events: 0,
  expire_positions: 0,
  encrypt_secrets: 0,
  retrain: 1,
  embed_dataset: MAX_CALLS_PER_EMBEDDING,
  delete_evaluation_errors: 0,
  expire_captured: 0,
  test_version: 1,
  end_measurement: 0,
  sweep: MAX_DELETES_PER_RUN + 20,
};
/** Tasks that wait while their tenant is suspended. The others keep the ledger, KV and R2 in order. */
export const SUSPENDED_TASKS: ReadonlySet<TaskKind> = new Set([
  "submit_jobs",
  "deliver",
  "retrain",
  "embed_dataset",
  "test_version",
]);

/** Makes the tasks due that have waited while their tenant was suspended. */
export function resumeSuspendedTasks(sql: SqlStorage, now: number): void {
  for (const kind of SUSPENDED_TASKS) sql.exec("UPDATE due SET run_at = min(run_at, ?) WHERE kind = ?", now, kind);
}

const INITIAL_BACKOFF_MS = 1_000;
const MAX_BACKOFF_MS = 3_600_000;

/**
 * Adds a task, or moves the same task to `runAt` if it is due later. It becomes a new row in either case: if the same
 * task is running, its end does not delete what was scheduled meanwhile.
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
 * Sets the alarm to the earliest task, if there is one. Nothing is awaited before it is set: only so does the platform
 * commit the alarm together with the rows just written.
 */
export async function setNextAlarm(storage: DurableObjectStorage): Promise<void> {
  const next = storage.sql.exec<{ run_at: number | null }>("SELECT min(run_at) AS run_at FROM due").one().run_at;
  if (next !== null) await storage.setAlarm(next);
}

/**
 * How many tasks of a kind run at once, for kinds that wait for other systems or run in steps. They run beside the other
 * tasks and delay none. `deliver` is not among them: it only starts the dispatcher, which runs by itself (hooks/dispatcher.ts).
 */
const MAX_CONCURRENT_TASKS: Readonly<Partial<Record<TaskKind, number>>> = {
  job: 3,
  submit_jobs: 1,
  retrain: 1,
  embed_dataset: 1,
  test_version: 1,
  merge_import: 3,
  edit_dataset: 3,
  erase_examples: 1,
};
/** How long an alarm waits for them. A task that takes longer runs on after the alarm; if it is lost, it is retried. */
const ALARM_WAIT_MS = 1_000;
/** When a task is tried again that was one too many of its kind. */
const CONCURRENCY_RETRY_MS = 1_000;
/** When a task is tried again that is running already, at the latest: it is due as soon as that run ends. */
const RUNNING_RETRY_MS = 60_000;

/** The running tasks by kind and reference, and whether each became due again meanwhile. */
export type RunningTasks = Map<string, RunningTask>;

interface RunningTask {
  isDueAgain: boolean;
}

export interface TaskRunner {
  /** Answers when the same task is due again, or null when it is done. */
  run(task: ScheduledTask): Promise<number | null>;
  /** Hears of a task that failed and will be retried. */
  onError(task: ScheduledTask, error: unknown): void;
  readonly running?: RunningTasks;
  /** Called when a task ends that may have outlived its alarm. */
  onComplete?(): Promise<void>;
}

/** Runs the due tasks, as many as one alarm may. Throws nothing. */
export async function runDueTasks(storage: DurableObjectStorage, now: number, runner: TaskRunner): Promise<void> {
  const { sql } = storage;
  const { running = new Map<string, RunningTask>(), onComplete = async () => undefined } = runner;
  const rows = sql
    .exec<TaskRow>(
      "SELECT id, kind, ref, attempts FROM due WHERE run_at <= ? ORDER BY run_at LIMIT ?",
      now,
      MAX_TASKS_PER_ALARM,
    )
    .toArray();
  const concurrentRuns: Promise<void>[] = [];
  let operationsLeft = MAX_OPERATIONS_PER_ALARM;
  for (const row of rows) {
    if (deferIfRunning(sql, row, running, now)) continue;
    operationsLeft -= operationsPerTask[row.kind] ?? 1;
    if (operationsLeft < 0) break;
    // The retry is scheduled before the task runs, for a task that ends the isolate.
    const backoff = Math.min(INITIAL_BACKOFF_MS * 4 ** row.attempts, MAX_BACKOFF_MS);
    sql.exec("UPDATE due SET attempts = attempts + 1, run_at = ? WHERE id = ?", now + backoff, row.id);
    const state: RunningTask = { isDueAgain: false };
    const work = runTask(sql, row, state, runner, now);
    if (MAX_CONCURRENT_TASKS[row.kind] === undefined) {
      await work;
      continue;
    }
    const key = taskKey(row);
    running.set(key, state);
    concurrentRuns.push(work.finally(() => running.delete(key)).then(onComplete));
  }
  if (concurrentRuns.length > 0) await Promise.race([Promise.all(concurrentRuns), scheduler.wait(ALARM_WAIT_MS)]);
}

function taskKey({ kind, ref }: Pick<ScheduledTask, "kind" | "ref">): string {
  return `${kind}\n${ref}`;
}

/** Puts a task off that is running already, or that is one too many of its kind. */
function deferIfRunning(sql: SqlStorage, task: TaskRow, running: RunningTasks, now: number): boolean {
  const runningTask = running.get(taskKey(task));
  const runningOfKind = [...running.keys()].filter((key) => key.startsWith(taskKey({ kind: task.kind, ref: "" })));
  if (!runningTask && runningOfKind.length < (MAX_CONCURRENT_TASKS[task.kind] ?? Number.POSITIVE_INFINITY))
    return false;
  if (runningTask) runningTask.isDueAgain = true;
  const retryAt = now + (runningTask ? RUNNING_RETRY_MS : CONCURRENCY_RETRY_MS);
  sql.exec("UPDATE due SET run_at = ? WHERE id = ?", retryAt, task.id);
  return true;
}

async function runTask(
  sql: SqlStorage,
  task: ScheduledTask,
  state: Readonly<RunningTask>,
  { run, onError }: TaskRunner,
  now: number,
): Promise<void> {
  try {
    const nextRunAt = await run(task);
    if (nextRunAt === null) sql.exec("DELETE FROM due WHERE id = ?", task.id);
    else sql.exec("UPDATE due SET attempts = 0, run_at = ? WHERE id = ?", nextRunAt, task.id);
    // A row that was scheduled meanwhile.
    if (state.isDueAgain)
      sql.exec("UPDATE due SET run_at = ? WHERE kind = ? AND ref = ? AND id <> ?", now, task.kind, task.ref, task.id);
  } catch (error) {
    onError(task, error);
  }
}
