/** The attempts that run here, each in its own process, and those that have ended. */
import type { Submission } from "../../jobs/protocol.ts";
import type { StopMode } from "../attempt/cancellation.ts";
import { type AttemptCredentials, makeWorkerClient } from "../client/worker-client.ts";
import type { Log } from "../log.ts";
import { type AttemptProcess, startAttemptProcess, workerClientOptions } from "./attempt-process.ts";
import type { Settings } from "./settings.ts";
import type { WorkFolder } from "./work-folder.ts";

export interface Supervisor {
  /**
   * Null: the attempt is unknown here. `orphaned`: it ran in an earlier process of the endpoint. An attempt older than a
   * known one of its job has ended.
   */
  stateOf(id: string, attempt: number): "running" | "ended" | "orphaned" | null;
  /** The attempts that have a process. */
  running(): readonly Submission[];
  /** Starts an attempt, which must be unknown here. */
  start(submission: Submission): void;
  /** Asks a running attempt to end. Answers whether there is one. */
  stop(id: string, attempt: number, mode: StopMode): boolean;
  /** Ends a job's running attempt without a message to the Worker, which has given it up. */
  kill(id: string): Promise<void>;
  /** Lets all attempts hand back their checkpoints, for at most so many milliseconds. */
  close(graceMs: number): Promise<void>;
}

/** Jobs whose last ended attempt is remembered. */
const MAX_ENDED = 10_000;

/** @param program the file that runs an attempt; another one in tests */
export function makeSupervisor(settings: Settings, folder: WorkFolder, log: Log, program: string): Supervisor {
  const processes = new Map<string, AttemptProcess>();
  const ended = makeEndedAttempts();
  const orphaned = new Set<string>();
  const closeController = new AbortController();

  /** Reports that an attempt is lost, and forgets it only then: the next process may have to report it. */
  const reportLost = async (credentials: AttemptCredentials, message: string, isOrphaned: boolean) => {
    const { id, attempt } = credentials;
    ended.add(id, attempt);
    const workerClient = makeWorkerClient(workerClientOptions(settings), credentials);
    const report = { type: "failed", message, retryable: true, endpoint_restarted: isOrphaned } as const;
    const outcome = await workerClient.send(report, closeController.signal).catch(() => null);
    if (outcome !== null && outcome.type !== "unreachable") folder.remove(credentials);
    log("attempt_lost", { id, attempt, report: outcome?.type ?? "not yet" });
  };
  for (const credentials of folder.orphanedAttempts) {
    orphaned.add(attemptKey(credentials.id, credentials.attempt));
    void reportLost(credentials, "The batch endpoint stopped before this attempt ended.", true);
  }

  return {
    stateOf(id, attempt) {
      const attemptProcess = processes.get(id);
      const current = attemptProcess?.submission.attempt ?? 0;
      if (current === attempt) return attemptProcess?.isSettled() ? "ended" : "running";
      if (orphaned.has(attemptKey(id, attempt))) return "orphaned";
      return attempt < current || attempt <= ended.last(id) ? "ended" : null;
    },
    running: () => Array.from(processes.values(), ({ submission }) => submission),
    start(submission) {
      const { id, attempt } = submission;
      folder.add(submission);
      const attemptProcess = startAttemptProcess(submission, settings, program, log, {
        onSettled: () => folder.remove(submission),
        onExit() {
          processes.delete(id);
          if (attemptProcess.isSettled()) ended.add(id, attempt);
          else
            void reportLost(
              submission,
              "The batch endpoint lost this attempt: its process ended before its work was done.",
              false,
            );
        },
      });
      processes.set(id, attemptProcess);
    },
    stop(id, attempt, mode) {
      const attemptProcess = processes.get(id);
      if (attemptProcess?.submission.attempt !== attempt || attemptProcess.isSettled()) return false;
      attemptProcess.stop(mode);
      return true;
    },
    async kill(id) {
      const attemptProcess = processes.get(id);
      attemptProcess?.settle();
      await attemptProcess?.exited;
    },
    close: (graceMs) => pauseAll([...processes.values()], graceMs, () => closeController.abort()),
  };
}

function attemptKey(id: string, attempt: number): string {
  return `${id}.${attempt}`;
}

/** The number of the attempt that ended last, for each of the latest jobs. */
function makeEndedAttempts() {
  const attempts = new Map<string, number>();
  const last = (id: string) => attempts.get(id) ?? 0;
  return {
    last,
    add(id: string, attempt: number) {
      const latest = Math.max(attempt, last(id));
      attempts.delete(id);
      attempts.set(id, latest);
      const [oldest] = attempts.keys();
      if (attempts.size > MAX_ENDED && oldest !== undefined) attempts.delete(oldest);
    },
  };
}

/** Asks all attempts to pause, and kills those that take longer than so many milliseconds. */
async function pauseAll(processes: readonly AttemptProcess[], graceMs: number, beforeKill: () => void): Promise<void> {
  for (const attemptProcess of processes) attemptProcess.stop("pause");
  const allExited = Promise.all(processes.map(({ exited }) => exited));
  await withinTime(allExited, graceMs);
  beforeKill();
  // The records of killed attempts stay, so that the next process reports them as lost.
  for (const attemptProcess of processes) attemptProcess.kill();
  await allExited;
}

/** Waits for a promise, but no longer than so many milliseconds. */
async function withinTime(promise: Promise<unknown>, milliseconds: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeout = new Promise((resolve) => {
    timer = setTimeout(resolve, milliseconds);
  });
  await Promise.race([promise, timeout]);
  clearTimeout(timer);
}
