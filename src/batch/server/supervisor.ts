/** The attempts that run here, each in a process of its own, and those that have ended. */
import { type ChildProcess, fork } from "node:child_process";
import type { Submission } from "../../jobs/protocol.ts";
import type { Heard, Said, Setup } from "../attempt/child.ts";
import { type Caller, edgeOf, type Origin } from "../client/worker-client.ts";
import type { Way } from "../attempt/cancellation.ts";
import type { Log } from "../log.ts";
import type { Settings } from "./settings.ts";
import type { WorkFolder } from "./work-folder.ts";

export interface Attempts {
  /** Null: unknown here. What is older than an attempt that is known has ended. */
  stateOf(id: string, attempt: number): "running" | "ended" | null;
  running(): number;
  /** Starts an attempt, which must be unknown here. */
  start(submission: Submission): void;
  /** Asks an attempt that runs to end; answers whether there is one. */
  stop(id: string, attempt: number, way: Way): boolean;
  /** Ends what runs of a job without a word: the Worker has given it up. */
  drop(id: string): Promise<void>;
  /** Lets all attempts hand back what they have, for so many milliseconds at most. */
  close(graceMs: number): Promise<void>;
}

interface Running {
  readonly submission: Submission;
  readonly child: ChildProcess;
  readonly ended: Promise<void>;
  /** Nothing needs to be told any more. */
  settled: boolean;
}

/** What a process takes beside an attempt's data. */
const HEAP_MB = 256;
/** Of new objects. With Node's own choice a process holds a hundred megabytes more, and is hardly faster. */
const NEW_OBJECTS_MB = 4;
/** Jobs of which it is known which attempt ended last. */
const MOST_ENDED = 10_000;

/** @param program the file that runs an attempt; another one in tests */
export function makeAttempts(settings: Settings, folder: WorkFolder, log: Log, program: string): Attempts {
  const origin: Origin = { url: settings.graftUrl, secret: settings.secrets[0], pace: settings.pace };
  const running = new Map<string, Running>();
  const ended = new Map<string, number>();
  const closing = new AbortController();

  const end = ({ id, attempt }: Caller) => {
    const last = Math.max(attempt, ended.get(id) ?? 0);
    ended.delete(id);
    ended.set(id, last);
    if (ended.size > MOST_ENDED) ended.delete(ended.keys().next().value as string);
  };
  /** Tells that an attempt is lost, and only then forgets it: another process may have to tell it. */
  const tellLost = async (caller: Caller, message: string) => {
    end(caller);
    const edge = edgeOf(origin, caller);
    const outcome = await edge.tell({ type: "failed", message, retryable: true }, closing.signal).catch(() => null);
    if (outcome !== null && outcome.type !== "unreachable") folder.forget(caller);
    log("lost", { id: caller.id, attempt: caller.attempt, told: outcome?.type ?? "not yet" });
  };
  for (const caller of folder.lost) void tellLost(caller, "The batch endpoint stopped before this attempt ended.");

  const start = (submission: Submission) => {
    const { id, attempt, tenant } = submission;
    const of = { id, attempt, tenant };
    folder.note(submission);
    const setup: Setup = {
      submission,
      origin,
      budget: settings.budget,
      backbones: settings.backbones,
      largestSingle: settings.largestSingle,
    };
    const heapMb = Math.ceil(settings.budget.bytes / 2 ** 20) + HEAP_MB;
    const child = fork(program, [], {
      execArgv: [`--max-old-space-size=${heapMb}`, `--max-semi-space-size=${NEW_OBJECTS_MB}`],
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      // A terminal's Ctrl-C is for this process alone, which lets attempts hand back what they have.
      detached: true,
    });
    const { promise, resolve } = Promise.withResolvers<void>();
    const entry: Running = { submission, child, ended: promise, settled: false };
    running.set(id, entry);
    log("started", { ...of, pid: child.pid ?? 0 });
    tell(child, { type: "setup", setup });
    child.on("message", (said: Said) => {
      if (said.type === "log") return log(said.event, { ...of, ...said.fields });
      log("ended", { ...of, how: said.how });
      entry.settled = true;
      folder.forget(submission);
      child.kill("SIGKILL");
    });
    const exited = (code: number | null, signal: string | null) => {
      if (running.get(id) !== entry) return;
      running.delete(id);
      if (entry.settled) end(submission);
      else {
        log("exited", { ...of, code: code ?? signal ?? "" });
        void tellLost(submission, "The batch endpoint lost this attempt: its process ended before its work was done.");
      }
      resolve();
    };
    child.on("exit", exited);
    // Where it could not be started, it does not exit either.
    child.on("error", ({ name }) => child.pid === undefined && exited(null, name));
  };

  return {
    stateOf(id, attempt) {
      const entry = running.get(id);
      const current = entry?.submission.attempt ?? 0;
      if (current === attempt) return entry?.settled ? "ended" : "running";
      return attempt < current || attempt <= (ended.get(id) ?? 0) ? "ended" : null;
    },
    running: () => running.size,
    start,
    stop(id, attempt, way) {
      const entry = running.get(id);
      if (entry?.submission.attempt !== attempt || entry.settled) return false;
      tell(entry.child, { type: "stop", way });
      return true;
    },
    async drop(id) {
      const entry = running.get(id);
      if (entry === undefined) return;
      entry.settled = true;
      folder.forget(entry.submission);
      entry.child.kill("SIGKILL");
      await entry.ended;
    },
    async close(graceMs) {
      const left = [...running.values()];
      for (const { child } of left) tell(child, { type: "stop", way: "pause" });
      const all = Promise.all(left.map((entry) => entry.ended));
      let timer: ReturnType<typeof setTimeout> | undefined;
      await Promise.race([
        all,
        new Promise((resolve) => {
          timer = setTimeout(resolve, graceMs);
        }),
      ]);
      clearTimeout(timer);
      closing.abort();
      // Its record stays, so that the next process tells that it is lost.
      for (const { child } of left) child.kill("SIGKILL");
      await all;
    },
  };
}

function tell(child: ChildProcess, heard: Heard): void {
  // One that ends meanwhile will not hear it.
  child.send(heard, () => undefined);
}
