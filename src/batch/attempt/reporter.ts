/** What an attempt tells the Worker, in order, and does as it is told in answer. */
import type { Directive, Message } from "../../jobs/protocol.ts";
import type { Outcome, WorkerClient } from "../client/worker-client.ts";
import type { Log } from "../log.ts";
import type { Cancellation } from "./cancellation.ts";

export interface Reporter {
  /** Numbers the attempt's steps from 0. */
  nextStep(): number;
  /** Tells of a step when those before it have been told: nothing waits for that. */
  sendProgress(message: string, metrics: Readonly<Record<string, number>>): void;
  /**
   * Tells something when all before it has been told, until it is heard; what it is told to do in answer has been asked of
   * the attempt's ending. Null where the Worker refused it. Throws where the signal is aborted, or the attempt is over.
   */
  send(message: Message, signal: AbortSignal): Promise<Directive | null>;
  /** Shows now and then that the attempt lives, until it is stopped. */
  startHeartbeat(intervalMs: number): { stop(): void };
}

export function makeReporter(workerClient: WorkerClient, cancellation: Cancellation, log: Log): Reporter {
  const { signals } = cancellation;
  let step = 0;
  let sendQueue: Promise<unknown> = Promise.resolve();
  const applyDirective = (type: Message["type"], outcome: Outcome<Directive>): Directive | null => {
    if (outcome.type === "answer") {
      const { directive } = outcome.value;
      if (directive !== "continue") cancellation.request(directive);
      return outcome.value;
    }
    log(outcome.type, { message: type, ...(outcome.type === "refused" ? { status: outcome.status } : {}) });
    if (outcome.type !== "refused") cancellation.request("end");
    return null;
  };
  return {
    nextStep: () => step++,
    sendProgress(message, metrics) {
      const progressMessage = { type: "progress", step: step++, message, metrics } as const;
      const send = async () =>
        applyDirective(progressMessage.type, await workerClient.send(progressMessage, signals.cancel));
      // It throws only where the attempt is to end, which whoever works on it will notice.
      sendQueue = sendQueue.then(send).catch(() => undefined);
    },
    async send(message, signal) {
      await sendQueue;
      const directive = applyDirective(message.type, await workerClient.send(message, signal));
      if (directive === null) signal.throwIfAborted();
      return directive;
    },
    startHeartbeat(intervalMs) {
      let isSending = false;
      const timer = setInterval(async () => {
        if (isSending) return;
        isSending = true;
        const result = await workerClient.sendOnce({ type: "heartbeat" }, signals.end).catch(() => null);
        isSending = false;
        if (result !== null && result.type !== "again") applyDirective("heartbeat", result);
      }, intervalMs);
      return { stop: () => clearInterval(timer) };
    },
  };
}
