/** Signatures of the messages between the Worker and a batch endpoint: Standard Webhooks 1.0, with one shared secret. */
import { Webhook, WebhookVerificationError } from "standardwebhooks";

/** How far a message's time may be off, in seconds, by the library. Ids are remembered for twice as long. */
export const TOLERANCE_SECONDS = 300;

/** Whether messages can be signed with this secret. */
export function isSecret(secret: string): boolean {
  try {
    new Webhook(secret);
    return secret.startsWith("whsec_");
  } catch {
    return false;
  }
}

/** The headers that sign a body. `id` must be new each time, or the message counts as replayed; `now` is in milliseconds. */
export function sign(secret: string, body: string, id: string, now: number): Record<string, string> {
  const timestamp = new Date(now);
  return {
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(now / 1000)),
    "webhook-signature": new Webhook(secret).sign(id, timestamp, body),
  };
}

/** The message id of a body that one of the secrets signed within the last five minutes, else null. */
export function verify(secrets: readonly string[], body: string, headers: Headers): string | null {
  const id = headers.get("webhook-id") ?? "";
  if (!/^[\x21-\x7e]{1,100}$/.test(id)) return null;
  const signatureHeaders = Object.fromEntries(
    ["id", "timestamp", "signature"].map((part) => [`webhook-${part}`, headers.get(`webhook-${part}`) ?? ""]),
  );
  const isSignedBy = (secret: string) => {
    try {
      new Webhook(secret).verify(body, signatureHeaders, { jsonParse: false });
      return true;
    } catch (error) {
      if (error instanceof WebhookVerificationError) return false;
      throw error;
    }
  };
  return secrets.some(isSignedBy) ? id : null;
}
