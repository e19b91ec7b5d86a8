/** What an attempt tells the Worker, in order, and does as it is told in answer. */
import type { Directive, Message } from "../../jobs/protocol.ts";
import type { Edge, Outcome } from "../client/worker-client.ts";
import type { Ending } from "./cancellation.ts";
import type { Log } from "../log.ts";

export interface Report {
  /** Numbers the attempt's steps from 0. */
  nextStep(): number;
  /** Tells of a step when those before it have been told: nothing waits for that. */
  progress(message: string, metrics: Readonly<Record<string, number>>): void;
  /**
   * Tells something when all before it has been told, until it is heard; what it is told to do in answer has been asked of
   * the attempt's ending. Null where the Worker refused it. Throws where the signal is aborted, or the attempt is over.
   */
  tell(message: Message, signal: AbortSignal): Promise<Directive | null>;
  /** Shows now and then that the attempt lives, until it is stopped. */
  beat(everyMs: number): { stop(): void };
}

export function makeReport(edge: Edge, ending: Ending, log: Log): Report {
  const { signals } = ending;
  let step = 0;
  let outbox: Promise<unknown> = Promise.resolve();
  const heed = (type: Message["type"], outcome: Outcome<Directive>): Directive | null => {
    if (outcome.type === "answer") {
      const { directive } = outcome.value;
      if (directive !== "continue") ending.ask(directive);
      return outcome.value;
    }
    log(outcome.type, { message: type, ...(outcome.type === "refused" ? { status: outcome.status } : {}) });
    if (outcome.type !== "refused") ending.ask("end");
    return null;
  };
  return {
    nextStep: () => step++,
    progress(message, metrics) {
      const said = { type: "progress", step: step++, message, metrics } as const;
      const send = async () => heed(said.type, await edge.tell(said, signals.cancel));
      // It throws only where the attempt is to end, which whoever works on it will notice.
      outbox = outbox.then(send).catch(() => undefined);
    },
    async tell(message, signal) {
      await outbox;
      const directive = heed(message.type, await edge.tell(message, signal));
      if (directive === null) signal.throwIfAborted();
      return directive;
    },
    beat(everyMs) {
      let beating = false;
      const timer = setInterval(async () => {
        if (beating) return;
        beating = true;
        const called = await edge.tellOnce({ type: "heartbeat" }, signals.end).catch(() => null);
        beating = false;
        if (called !== null && called.type !== "again") heed("heartbeat", called);
      }, everyMs);
      return { stop: () => clearInterval(timer) };
    },
  };
}
