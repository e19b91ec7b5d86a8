/** One attempt at a delivery: signed as Standard Webhooks 1.0 says, with a time limit, and what came of it. */
import { Webhook } from "standardwebhooks";
import { parseRetryAfter } from "../lib/retry.ts";
import { readBodyPrefix } from "./response-body.ts";
import { checkWebhookUrl } from "./url.ts";

export interface WebhookMessage {
  readonly url: string;
  /** Each signs. */
  readonly secrets: readonly string[];
  /** The event's: the same however often it is sent. */
  readonly id: string;
  readonly body: string;
}

export interface SendResult {
  readonly status: number | null;
  /** The first KiB of the answer. */
  readonly responseBody: string | null;
  /** Why there is no answer, or not a whole one, which then does not count. */
  readonly error: string | null;
  /** What it asked for, in milliseconds. */
  readonly retryAfter: number | null;
}

const MAX_RESPONSE_BYTES = 1024;

/** The headers that sign a body; `now` is in milliseconds. */
export function signatureHeaders(
  { secrets, id, body }: Omit<WebhookMessage, "url">,
  now: number,
): Record<string, string> {
  const timestamp = new Date(now);
  return {
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(now / 1000)),
    "webhook-signature": secrets.map((secret) => new Webhook(secret).sign(id, timestamp, body)).join(" "),
  };
}

/**
 * Sends a message where it may go. An answer counts once its first KiB, or all of it, has come within the time limit; the
 * rest is not read, and a redirection not followed. Nothing is thrown.
 */
export async function sendMessage(
  message: WebhookMessage,
  allowedOrigins: ReadonlySet<string>,
  timeoutMs: number,
): Promise<SendResult> {
  const url = checkWebhookUrl(message.url, allowedOrigins);
  if (!url.ok) return { status: null, responseBody: null, error: url.failure.message, retryAfter: null };
  const signal = AbortSignal.timeout(timeoutMs);
  let status: number | null = null;
  let retryAfter: number | null = null;
  try {
    const response = await fetch(url.value.href, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        "user-agent": "Graft-Webhooks/1.0",
        ...signatureHeaders(message, Date.now()),
      },
      body: message.body,
      signal,
      redirect: "manual",
    });
    status = response.status;
    retryAfter = parseRetryAfter(response.headers.get("retry-after"), Date.now());
    return { status, responseBody: await readResponseText(response), error: null, retryAfter };
  } catch {
    const [timeoutMessage, connectionMessage] =
      status === null
        ? ["There was no answer", "It could not be reached."]
        : ["The answer was not there", "The connection broke before the answer had come."];
    const error = signal.aborted ? `${timeoutMessage} within ${timeoutMs / 1000} seconds.` : connectionMessage;
    return { status, responseBody: null, error, retryAfter };
  }
}

async function readResponseText(response: Response): Promise<string> {
  return new TextDecoder().decode((await readBodyPrefix(response, MAX_RESPONSE_BYTES)).subarray(0, MAX_RESPONSE_BYTES));
}
