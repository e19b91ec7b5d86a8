/** The process of one attempt, as the server sees it. */
import { type ChildProcess, fork } from "node:child_process";
import type { Submission } from "../../jobs/protocol.ts";
import type { StopMode } from "../attempt/cancellation.ts";
import type { ChildMessage, ParentMessage } from "../attempt/child.ts";
import type { WorkerClientOptions } from "../client/worker-client.ts";
import type { Log } from "../log.ts";
import type { Settings } from "./settings.ts";

export interface AttemptProcess {
  readonly submission: Submission;
  /** Whether the attempt has ended, or was given up. Its process may still exit. */
  isSettled(): boolean;
  /** Asks the attempt to end. */
  stop(mode: StopMode): void;
  kill(): void;
  /** Kills the process of an attempt that was given up. */
  settle(): void;
  /** Resolves when the process has exited and `onExit` was called. */
  readonly exited: Promise<void>;
}

export interface AttemptProcessEvents {
  /** The attempt has ended, or was given up: nothing needs to be reported of it. */
  readonly onSettled: () => void;
  readonly onExit: () => void;
}

/** Memory of a process beside an attempt's data. */
const HEAP_MB = 256;
/** Memory for new objects. With Node's default a process takes a hundred megabytes more, and is hardly faster. */
const SEMI_SPACE_MB = 4;

/** @param program the file that runs an attempt; another one in tests */
export function startAttemptProcess(
  submission: Submission,
  settings: Settings,
  program: string,
  log: Log,
  { onSettled, onExit }: AttemptProcessEvents,
): AttemptProcess {
  const { id, attempt, tenant } = submission;
  const logFields = { id, attempt, tenant };
  const heapMb = Math.ceil(settings.budget.bytes / 2 ** 20) + HEAP_MB;
  const child = fork(program, [], {
    execArgv: [`--max-old-space-size=${heapMb}`, `--max-semi-space-size=${SEMI_SPACE_MB}`],
    stdio: ["ignore", "inherit", "inherit", "ipc"],
    // A terminal's Ctrl-C is for this process alone, which lets attempts hand back their checkpoints.
    detached: true,
  });
  log("started", { ...logFields, pid: child.pid ?? 0 });
  const { budget, backbones, maxSingleUploadBytes, operationsPerSave } = settings;
  const workerOptions = workerClientOptions(settings);
  send(child, {
    type: "setup",
    setup: { submission, workerOptions, budget, backbones, maxSingleUploadBytes, operationsPerSave },
  });
  let isSettled = false;
  const settle = () => {
    isSettled = true;
    onSettled();
    child.kill("SIGKILL");
  };
  child.on("message", (message: ChildMessage) => {
    if (message.type === "log") return log(message.event, { ...logFields, ...message.fields });
    log("ended", { ...logFields, outcome: message.outcome });
    settle();
  });
  const { promise: exited, resolve } = Promise.withResolvers<void>();
  let hasExited = false;
  const exit = (code: number | null, signal: string | null) => {
    if (hasExited) return;
    hasExited = true;
    if (!isSettled) log("exited", { ...logFields, code: code ?? signal ?? "" });
    onExit();
    resolve();
  };
  child.on("exit", exit);
  // A process that cannot be started does not exit either.
  child.on("error", ({ name }) => child.pid === undefined && exit(null, name));
  return {
    submission,
    isSettled: () => isSettled,
    stop: (mode) => send(child, { type: "stop", mode }),
    kill: () => void child.kill("SIGKILL"),
    settle,
    exited,
  };
}

/** How the endpoint's settings say that the Worker is called. */
export function workerClientOptions({ graftUrl, secrets, retryPolicy }: Settings): WorkerClientOptions {
  return { url: graftUrl, secret: secrets[0], retryPolicy };
}

function send(child: ChildProcess, message: ParentMessage): void {
  // The process may be ending. The callback keeps that from being thrown as an error.
  child.send(message, () => undefined);
}
