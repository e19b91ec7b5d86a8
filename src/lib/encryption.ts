/**
 * Encryption of small texts at rest: AES-256-GCM (NIST SP 800-38D) under a key that HKDF-SHA-256 (RFC 5869) derives from
 * the server key. A ciphertext names its key, so that the server key can be rotated:
 *
 *   format (1 byte) · key id (8) · nonce (12) · ciphertext · tag (16)
 */
import { createCipheriv, createDecipheriv, createHash, hkdfSync, randomBytes } from "node:crypto";

const CIPHER = "aes-256-gcm";
const FORMAT = 1;
const KEY_BYTES = 32;
const KEY_ID_BYTES = 8;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const HEADER_BYTES = 1 + KEY_ID_BYTES + NONCE_BYTES;

export interface EncryptionKey {
  /** The first 8 bytes of the SHA-256 of the key, in hexadecimal. */
  readonly id: string;
  readonly bytes: Uint8Array;
}

/** The key that belongs to a server key. Its purpose is part of the derivation: MACs are made with the server key itself. */
export function deriveEncryptionKey(serverKey: string): EncryptionKey {
  const bytes = new Uint8Array(hkdfSync("sha256", serverKey, "", "graft secrets at rest", KEY_BYTES));
  return {
    id: createHash("sha256")
      .update(bytes)
      .digest("hex")
      .slice(0, 2 * KEY_ID_BYTES),
    bytes,
  };
}

/** Encrypts a text. It can be decrypted only with the same `context`, which says where the text is stored. */
export function encrypt(key: EncryptionKey, context: string, text: string): Uint8Array<ArrayBuffer> {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv(CIPHER, key.bytes, nonce).setAAD(Buffer.from(context));
  const ciphertext = Buffer.concat([cipher.update(text, "utf8"), cipher.final()]);
  const header = Buffer.concat([Uint8Array.of(FORMAT), Buffer.from(key.id, "hex"), nonce]);
  return new Uint8Array(Buffer.concat([header, ciphertext, cipher.getAuthTag()]));
}

/** The id of the key that a ciphertext names. */
export function encryptionKeyId(encrypted: Uint8Array): string {
  return Buffer.from(encrypted.subarray(1, 1 + KEY_ID_BYTES)).toString("hex");
}

/** The text, or null if none of the keys made this ciphertext for this context, or it was changed. */
export function decrypt(keys: readonly EncryptionKey[], context: string, encrypted: Uint8Array): string | null {
  const key = keys.find(({ id }) => id === encryptionKeyId(encrypted));
  if (key === undefined || encrypted[0] !== FORMAT || encrypted.length < HEADER_BYTES + TAG_BYTES) return null;
  const nonce = encrypted.subarray(1 + KEY_ID_BYTES, HEADER_BYTES);
  const decipher = createDecipheriv(CIPHER, key.bytes, nonce, { authTagLength: TAG_BYTES })
    .setAAD(Buffer.from(context))
    .setAuthTag(encrypted.subarray(-TAG_BYTES));
  try {
    const text = decipher.update(encrypted.subarray(HEADER_BYTES, -TAG_BYTES));
    return Buffer.concat([text, decipher.final()]).toString("utf8");
  } catch {
    return null;
  }
}
