/** Notices a runtime that does not come back. Miniflare replaces one that has crashed, but tries that only once. */
import { connectToRuntime } from "../front/forward.ts";

export interface LivenessLimits {
  readonly intervalMs: number;
  /** How many checks in a row have no answer before the runtime is lost. */
  readonly checks: number;
}

/** A minute. */
const defaultLimits: LivenessLimits = { intervalMs: 5_000, checks: 12 };

/** Calls `onLost` once, if the Worker has not answered for too long. Returns the function that stops watching. */
export function watchRuntime(socketPath: string, onLost: () => void, limits = defaultLimits): () => Promise<void> {
  const runtime = connectToRuntime(socketPath);
  let unanswered = 0;
  const check = async () => {
    try {
      const signal = AbortSignal.timeout(limits.intervalMs);
      const { body } = await runtime.request({ method: "GET", path: "/health/live", signal });
      await body.dump();
      unanswered = 0;
    } catch {
      unanswered++;
      if (unanswered === limits.checks) onLost();
    }
  };
  const timer = setInterval(check, limits.intervalMs).unref();
  return async () => {
    clearInterval(timer);
    await runtime.destroy();
  };
}
