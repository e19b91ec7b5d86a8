/** One attempt at a delivery: signed as Standard Webhooks 1.0 says, with a time limit, and what came of it. */
import { Webhook } from "standardwebhooks";
import { parseRetryAfter } from "../lib/retry-after.ts";
import { checkAddress } from "./address.ts";
import { readStart } from "./answer.ts";

export interface Message {
  readonly url: string;
  /** Each signs. */
  readonly secrets: readonly string[];
  /** The event's: the same however often it is sent. */
  readonly id: string;
  readonly body: string;
}

export interface Answered {
  readonly status: number | null;
  /** The first KiB of the answer. */
  readonly answer: string | null;
  /** Why there is no answer, or not a whole one, which then does not count. */
  readonly error: string | null;
  /** What it asked for, in milliseconds. */
  readonly retryAfter: number | null;
}

const ANSWER_BYTES = 1024;

/** The headers that sign a body; `now` is in milliseconds. */
export function signatures({ secrets, id, body }: Omit<Message, "url">, now: number): Record<string, string> {
  const at = new Date(now);
  return {
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(now / 1000)),
    "webhook-signature": secrets.map((secret) => new Webhook(secret).sign(id, at, body)).join(" "),
  };
}

/**
 * Sends a message where it may go. An answer counts once its first KiB, or all of it, has come within the time limit; the
 * rest is not read, and a redirection not followed. Nothing is thrown.
 */
export async function sendMessage(
  message: Message,
  allowed: ReadonlySet<string>,
  timeoutMs: number,
): Promise<Answered> {
  const address = checkAddress(message.url, allowed);
  if (!address.ok) return { status: null, answer: null, error: address.failure.message, retryAfter: null };
  const signal = AbortSignal.timeout(timeoutMs);
  let status: number | null = null;
  let retryAfter: number | null = null;
  try {
    const response = await fetch(address.value.href, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        "user-agent": "Graft-Webhooks/1.0",
        ...signatures(message, Date.now()),
      },
      body: message.body,
      signal,
      redirect: "manual",
    });
    status = response.status;
    retryAfter = parseRetryAfter(response.headers.get("retry-after"), Date.now());
    return { status, answer: await readText(response), error: null, retryAfter };
  } catch {
    const [late, lost] =
      status === null
        ? ["There was no answer", "It could not be reached."]
        : ["The answer was not there", "The connection broke before the answer had come."];
    const error = signal.aborted ? `${late} within ${timeoutMs / 1000} seconds.` : lost;
    return { status, answer: null, error, retryAfter };
  }
}

async function readText(response: Response): Promise<string> {
  return new TextDecoder().decode((await readStart(response, ANSWER_BYTES)).subarray(0, ANSWER_BYTES));
}
