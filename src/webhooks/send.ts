/** One attempt to deliver a webhook, signed by Standard Webhooks 1.0 and with a time limit. */
import { Webhook } from "standardwebhooks";
import { parseRetryAfter } from "../lib/retry.ts";
import { HOPS_HEADER } from "./hops.ts";
import { readBodyPrefix } from "./response-body.ts";
import { checkWebhookUrl } from "./url.ts";

export interface WebhookMessage {
  readonly url: string;
  /** Each one adds a signature. */
  readonly secrets: readonly string[];
  /** The event's id, the same in every attempt. */
  readonly id: string;
  readonly body: string;
  /** How many webhooks led to the event. */
  readonly hops: number;
}

export interface SendResult {
  readonly status: number | null;
  /** The first KiB of the response. */
  readonly responseBody: string | null;
  /** Why there is no complete response. An incomplete one does not count. */
  readonly error: string | null;
  /** The delay that the response asks for, in milliseconds. */
  readonly retryAfter: number | null;
}

const MAX_RESPONSE_BYTES = 1024;
/** What `fetch` throws, among other words, if the host's address may not be reached: a type of RFC 9209, section 2.3. */
export const ADDRESS_PROHIBITED = "destination_ip_prohibited";

/** The headers that sign a body. `now` is in milliseconds. */
export function signatureHeaders(
  { secrets, id, body }: Pick<WebhookMessage, "secrets" | "id" | "body">,
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
 * Sends a message if its URL is allowed. A response counts if its first KiB, or all of it, arrives within the time limit.
 * The rest is not read, and a redirect is not followed. A message that nothing signs is not sent. Throws nothing.
 */
export async function sendMessage(
  message: WebhookMessage,
  allowedOrigins: ReadonlySet<string>,
  timeoutMs: number,
): Promise<SendResult> {
  const url = checkWebhookUrl(message.url, allowedOrigins);
  if (!url.ok) return notSent(url.failure.message);
  if (message.secrets.length === 0)
    return notSent("It could not be signed: the server has changed its key. Rotate the endpoint's secret.");
  const signal = AbortSignal.timeout(timeoutMs);
  let status: number | null = null;
  let retryAfter: number | null = null;
  try {
    const response = await fetch(url.value.href, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        "user-agent": "Graft-Webhooks/1.0",
        [HOPS_HEADER]: String(message.hops + 1),
        ...signatureHeaders(message, Date.now()),
      },
      body: message.body,
      signal,
      redirect: "manual",
    });
    status = response.status;
    retryAfter = parseRetryAfter(response.headers.get("retry-after"), Date.now());
    return { status, responseBody: await readResponseText(response), error: null, retryAfter };
  } catch (failure) {
    if (String(failure).includes(ADDRESS_PROHIBITED))
      return notSent("It was not sent: its host resolves to an address that is not public.");
    const [timeoutMessage, connectionMessage] =
      status === null
        ? ["There was no answer", "It could not be reached."]
        : ["The answer was not there", "The connection broke before the answer had come."];
    const error = signal.aborted ? `${timeoutMessage} within ${timeoutMs / 1000} seconds.` : connectionMessage;
    return { status, responseBody: null, error, retryAfter };
  }
}

function notSent(error: string): SendResult {
  return { status: null, responseBody: null, error, retryAfter: null };
}

async function readResponseText(response: Response): Promise<string> {
  return new TextDecoder().decode((await readBodyPrefix(response, MAX_RESPONSE_BYTES)).subarray(0, MAX_RESPONSE_BYTES));
}
