import { createHash, createHmac, timingSafeEqual } from "node:crypto";

/** As HASH_BYTES of core/block.ts, which stores these hashes. */
const SHORT_HASH_BYTES = 16;

export function sha256Hex(bytes: Uint8Array | string): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** The first 16 bytes of the SHA-256 of the parts, each preceded by its length. */
export function shortHash(...parts: readonly (Uint8Array | string)[]): Uint8Array {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(`${part.length}:`).update(part);
  return new Uint8Array(hash.digest().subarray(0, SHORT_HASH_BYTES));
}

const MAC_DIGITS = 32;

/** The HMAC-SHA-256 of a message under a server key, cut to 32 hexadecimal digits. */
export function mac(serverKey: string, message: string): string {
  return createHmac("sha256", serverKey).update(message).digest("hex").slice(0, MAC_DIGITS);
}

/** Whether one of the server keys made this MAC. */
export function verifyMac(serverKeys: readonly string[], message: string, receivedMac: string): boolean {
  return serverKeys.some((serverKey) => constantTimeEqual(mac(serverKey, message), receivedMac));
}

/** The time that this takes does not depend on where the two differ. */
export function constantTimeEqual(a: string, b: string): boolean {
  return timingSafeEqual(Buffer.from(sha256Hex(a)), Buffer.from(sha256Hex(b)));
}

export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}
