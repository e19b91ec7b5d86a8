/** The attempts that run here, each in a process of its own, and those that have ended. */
import { type ChildProcess, fork } from "node:child_process";
import type { Submission } from "../../jobs/protocol.ts";
import type { StopMode } from "../attempt/cancellation.ts";
import type { ChildMessage, ParentMessage, Setup } from "../attempt/child.ts";
import { type AttemptCredentials, makeWorkerClient, type WorkerClientOptions } from "../client/worker-client.ts";
import type { Log } from "../log.ts";
import type { Settings } from "./settings.ts";
import type { WorkFolder } from "./work-folder.ts";

export interface Supervisor {
  /** Null: unknown here. What is older than an attempt that is known has ended. */
  stateOf(id: string, attempt: number): "running" | "ended" | null;
  runningCount(): number;
  /** Starts an attempt, which must be unknown here. */
  start(submission: Submission): void;
  /** Asks an attempt that runs to end; answers whether there is one. */
  stop(id: string, attempt: number, mode: StopMode): boolean;
  /** Ends what runs of a job without a word: the Worker has given it up. */
  kill(id: string): Promise<void>;
  /** Lets all attempts hand back what they have, for so many milliseconds at most. */
  close(graceMs: number): Promise<void>;
}

interface RunningAttempt {
  readonly submission: Submission;
  readonly child: ChildProcess;
  readonly exitPromise: Promise<void>;
  /** Nothing needs to be told any more. */
  isSettled: boolean;
}

/** What a process takes beside an attempt's data. */
const HEAP_MB = 256;
/** Of new objects. With Node's own choice a process holds a hundred megabytes more, and is hardly faster. */
const SEMI_SPACE_MB = 4;
/** Jobs of which it is known which attempt ended last. */
const MAX_ENDED = 10_000;

/** @param program the file that runs an attempt; another one in tests */
export function makeSupervisor(settings: Settings, folder: WorkFolder, log: Log, program: string): Supervisor {
  const workerOptions: WorkerClientOptions = {
    url: settings.graftUrl,
    secret: settings.secrets[0],
    retryPolicy: settings.retryPolicy,
  };
  const runningAttempts = new Map<string, RunningAttempt>();
  const lastEndedAttempts = new Map<string, number>();
  const closeController = new AbortController();

  const recordEnded = ({ id, attempt }: AttemptCredentials) => {
    const last = Math.max(attempt, lastEndedAttempts.get(id) ?? 0);
    lastEndedAttempts.delete(id);
    lastEndedAttempts.set(id, last);
    if (lastEndedAttempts.size > MAX_ENDED) lastEndedAttempts.delete(lastEndedAttempts.keys().next().value as string);
  };
  /** Tells that an attempt is lost, and only then forgets it: another process may have to tell it. */
  const reportLost = async (credentials: AttemptCredentials, message: string) => {
    recordEnded(credentials);
    const workerClient = makeWorkerClient(workerOptions, credentials);
    const outcome = await workerClient
      .send({ type: "failed", message, retryable: true }, closeController.signal)
      .catch(() => null);
    if (outcome !== null && outcome.type !== "unreachable") folder.remove(credentials);
    log("attempt_lost", { id: credentials.id, attempt: credentials.attempt, report: outcome?.type ?? "not yet" });
  };
  for (const credentials of folder.orphanedAttempts)
    void reportLost(credentials, "The batch endpoint stopped before this attempt ended.");

  const start = (submission: Submission) => {
    const { id, attempt, tenant } = submission;
    const logFields = { id, attempt, tenant };
    folder.add(submission);
    const setup: Setup = {
      submission,
      workerOptions,
      budget: settings.budget,
      backbones: settings.backbones,
      maxSingleUploadBytes: settings.maxSingleUploadBytes,
    };
    const heapMb = Math.ceil(settings.budget.bytes / 2 ** 20) + HEAP_MB;
    const child = fork(program, [], {
      execArgv: [`--max-old-space-size=${heapMb}`, `--max-semi-space-size=${SEMI_SPACE_MB}`],
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      // A terminal's Ctrl-C is for this process alone, which lets attempts hand back what they have.
      detached: true,
    });
    const { promise, resolve } = Promise.withResolvers<void>();
    const entry: RunningAttempt = { submission, child, exitPromise: promise, isSettled: false };
    runningAttempts.set(id, entry);
    log("started", { ...logFields, pid: child.pid ?? 0 });
    send(child, { type: "setup", setup });
    child.on("message", (message: ChildMessage) => {
      if (message.type === "log") return log(message.event, { ...logFields, ...message.fields });
      log("ended", { ...logFields, outcome: message.outcome });
      entry.isSettled = true;
      folder.remove(submission);
      child.kill("SIGKILL");
    });
    const onExit = (code: number | null, signal: string | null) => {
      if (runningAttempts.get(id) !== entry) return;
      runningAttempts.delete(id);
      if (entry.isSettled) recordEnded(submission);
      else {
        log("exited", { ...logFields, code: code ?? signal ?? "" });
        void reportLost(
          submission,
          "The batch endpoint lost this attempt: its process ended before its work was done.",
        );
      }
      resolve();
    };
    child.on("exit", onExit);
    // Where it could not be started, it does not exit either.
    child.on("error", ({ name }) => child.pid === undefined && onExit(null, name));
  };

  return {
    stateOf(id, attempt) {
      const entry = runningAttempts.get(id);
      const current = entry?.submission.attempt ?? 0;
      if (current === attempt) return entry?.isSettled ? "ended" : "running";
      return attempt < current || attempt <= (lastEndedAttempts.get(id) ?? 0) ? "ended" : null;
    },
    runningCount: () => runningAttempts.size,
    start,
    stop(id, attempt, mode) {
      const entry = runningAttempts.get(id);
      if (entry?.submission.attempt !== attempt || entry.isSettled) return false;
      send(entry.child, { type: "stop", mode });
      return true;
    },
    async kill(id) {
      const entry = runningAttempts.get(id);
      if (entry === undefined) return;
      entry.isSettled = true;
      folder.remove(entry.submission);
      entry.child.kill("SIGKILL");
      await entry.exitPromise;
    },
    async close(graceMs) {
      const remaining = [...runningAttempts.values()];
      for (const { child } of remaining) send(child, { type: "stop", mode: "pause" });
      const all = Promise.all(remaining.map((entry) => entry.exitPromise));
      let timer: ReturnType<typeof setTimeout> | undefined;
      await Promise.race([
        all,
        new Promise((resolve) => {
          timer = setTimeout(resolve, graceMs);
        }),
      ]);
      clearTimeout(timer);
      closeController.abort();
      // Its record stays, so that the next process tells that it is lost.
      for (const { child } of remaining) child.kill("SIGKILL");
      await all;
    },
  };
}

function send(child: ChildProcess, message: ParentMessage): void {
  // One that ends meanwhile will not hear it.
  child.send(message, () => undefined);
}
