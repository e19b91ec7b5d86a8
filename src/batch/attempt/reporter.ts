/** Sends an attempt's messages to the Worker, in order, and applies the directives that it answers. */
import type { Directive, Message } from "../../jobs/protocol.ts";
import type { Outcome, WorkerClient } from "../client/worker-client.ts";
import type { Log } from "../log.ts";
import type { Cancellation } from "./cancellation.ts";

export interface Reporter {
  /** The number of the attempt's next step, from 0. */
  nextStep(): number;
  /** Sends a progress message once the messages before it are sent, and does not wait for that. */
  sendProgress(message: string, metrics: Readonly<Record<string, number>>): void;
  /**
   * Sends a message after all before it, until it is answered, and applies the directive. Null if the Worker refused the
   * message. Throws if the signal is aborted, which a directive may do.
   */
  send(message: Message, signal: AbortSignal): Promise<Directive | null>;
  /** Sends a heartbeat now and then, until it is stopped. */
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
    const status = outcome.type === "refused" ? { status: outcome.status } : {};
    log("message_failed", { message: type, reason: outcome.type, ...status });
    if (outcome.type !== "refused") cancellation.request("end");
    return null;
  };
  return {
    nextStep: () => step++,
    sendProgress(message, metrics) {
      const progressMessage = { type: "progress", step: step++, message, metrics } as const;
      const send = async () =>
        applyDirective(progressMessage.type, await workerClient.send(progressMessage, signals.cancel));
      // It throws only if the attempt is to end, which the attempt's work notices by itself.
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
        if (result !== null && result.type !== "retry") applyDirective("heartbeat", result);
      }, intervalMs);
      return { stop: () => clearInterval(timer) };
    },
  };
}
