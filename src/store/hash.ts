import { createHash } from "node:crypto";
import { HASH_BYTES } from "../core/codec.ts";

export function sha256Hex(bytes: Uint8Array | string): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** SHA-256 of the parts, each preceded by its length, cut to HASH_BYTES. */
export function shortHash(...parts: readonly (Uint8Array | string)[]): Uint8Array {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(`${part.length}:`).update(part);
  return new Uint8Array(hash.digest().subarray(0, HASH_BYTES));
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}
