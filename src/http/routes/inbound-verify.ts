/** Whether what came to an inbound hook was signed with the hook's secret, and what names it, so that a replay is seen. */
import { createHmac, timingSafeEqual } from "node:crypto";
import type { Verification } from "../../api/inbound-hooks.ts";
import { verify } from "../../jobs/sign.ts";
import { sha256Hex, toHex } from "../../lib/hash.ts";
import { toMilliseconds } from "../../lib/time.ts";
import type { MessageKey } from "../../tenant/hooks/inbound.ts";

/** A scheme that signs neither an id nor a time tells messages apart by their bodies alone: within this many seconds. */
export const BODY_WINDOW_SECONDS = 600;
/** A message's own id is remembered as long as an `Idempotency-Key` is: senders repeat it when they try again. */
const ID_TTL_SECONDS = 24 * 3600;

const SIGNATURE_PATTERNS = { hex: /^[0-9a-f]{64}$/i, base64: /^[A-Za-z0-9+/]{43}=$/ } as const;

/** The secret that a new hook is given where its maker brings none. */
export function generateSecret(scheme: Verification["scheme"]): string | null {
  if (scheme === "none") return null;
  const random = crypto.getRandomValues(new Uint8Array(32));
  return scheme === "standard_webhooks" ? `whsec_${Buffer.from(random).toString("base64")}` : toHex(random);
}

/** What names a message that the secret signed, byte for byte, else null. `now` in milliseconds. */
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

/** The 32 bytes that a header holds in the hook's form, or null. */
function readSignature(
  { prefix, encoding }: Extract<Verification, { scheme: "hmac_sha256" }>,
  value: string,
): Buffer | null {
  if (!value.startsWith(prefix)) return null;
  const encodedSignature = value.slice(prefix.length);
  return SIGNATURE_PATTERNS[encoding].test(encodedSignature) ? Buffer.from(encodedSignature, encoding) : null;
}
