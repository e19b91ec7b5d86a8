/** Whether a message to an inbound hook is signed with the hook's secret, and the id by which a replay is recognised. */
import { createHmac, timingSafeEqual } from "node:crypto";
import type { Verification } from "../../api/inbound-hooks.ts";
import { verify } from "../../jobs/sign.ts";
import { sha256Hex, toHex } from "../../lib/hash.ts";
import { toMilliseconds } from "../../lib/time.ts";
import type { MessageKey } from "../../tenant/hooks/inbound-messages.ts";

/** A scheme that signs neither an id nor a time can tell messages apart only by their bodies, for this many seconds. */
export const BODY_WINDOW_SECONDS = 600;
/** A message's own id is remembered as long as an `Idempotency-Key`: senders repeat it in a retry. */
const ID_TTL_SECONDS = 24 * 3600;

const SIGNATURE_PATTERNS = { hex: /^[0-9a-f]{64}$/i, base64: /^[A-Za-z0-9+/]{43}=$/ } as const;

/** The secret of a new hook whose creator gives none. */
export function generateSecret(scheme: Verification["scheme"]): string | null {
  if (scheme === "none") return null;
  const random = crypto.getRandomValues(new Uint8Array(32));
  return scheme === "standard_webhooks" ? `whsec_${Buffer.from(random).toString("base64")}` : toHex(random);
}

/** The key of a message that the secret has signed, byte for byte, otherwise null. `now` in milliseconds. */
export function verifyMessage(
  verification: Verification,
  secret: string | null,
  headers: Headers,
  body: Uint8Array,
  now: number,
): MessageKey | null {
  const bodyIdentity = { messageId: `body ${sha256Hex(body)}`, expiresAt: now + toMilliseconds(BODY_WINDOW_SECONDS) };
  switch (verification.scheme) {
    case "none":
      return bodyIdentity;
    case "standard_webhooks": {
      const text = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true }).decode(body);
      const id = verify(secret === null ? [] : [secret], text, headers);
      return id === null ? null : { messageId: `id ${id}`, expiresAt: now + toMilliseconds(ID_TTL_SECONDS) };
    }
    case "hmac_sha256": {
      const signature = readSignature(verification, headers.get(verification.header) ?? "");
      if (signature === null || secret === null) return null;
      return timingSafeEqual(signature, createHmac("sha256", secret).update(body).digest()) ? bodyIdentity : null;
    }
  }
}

/** The 32 bytes of a signature in a header, or null. */
function readSignature(
  { prefix, encoding }: Extract<Verification, { scheme: "hmac_sha256" }>,
  value: string,
): Buffer | null {
  if (!value.startsWith(prefix)) return null;
  const encodedSignature = value.slice(prefix.length);
  return SIGNATURE_PATTERNS[encoding].test(encodedSignature) ? Buffer.from(encodedSignature, encoding) : null;
}
