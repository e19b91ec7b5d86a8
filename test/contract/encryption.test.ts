/** In Node and in the Worker's runtime: both read what either has encrypted. */
import { expect, test } from "vitest";
import { decrypt, deriveEncryptionKey, encrypt, encryptionKeyId } from "../../src/lib/encryption.ts";

const key = deriveEncryptionKey("a server key");
const previousKey = deriveEncryptionKey("the server key before");
const secret = "whsec_é😀 c2VjcmV0";

test("a text comes back with its key and its context", () => {
  for (const text of ["", "x", secret, "long ".repeat(1_000)])
    expect(decrypt([key], "we_1", encrypt(key, "we_1", text))).toBe(text);
});

test("each ciphertext differs, shows nothing of the text, and names its key", () => {
  const [first, second] = [encrypt(key, "we_1", secret), encrypt(key, "we_1", secret)];
  expect(first).not.toEqual(second);
  expect(Buffer.from(first).includes("whsec_")).toBe(false);
  expect(first).toHaveLength(1 + 8 + 12 + Buffer.byteLength(secret) + 16);
  expect(encryptionKeyId(first)).toBe(key.id);
  expect(key.id).toMatch(/^[0-9a-f]{16}$/);
  expect(previousKey.id).not.toBe(key.id);
});

test("any of the keys decrypts, whichever is current", () => {
  const old = encrypt(previousKey, "we_1", secret);
  expect(decrypt([key, previousKey], "we_1", old)).toBe(secret);
  expect(decrypt([key], "we_1", old)).toBeNull();
  expect(decrypt([], "we_1", old)).toBeNull();
});

test("nothing comes back in another context, or from changed or cut bytes", () => {
  const encrypted = encrypt(key, "we_1", secret);
  expect(decrypt([key], "we_2", encrypted)).toBeNull();
  for (let index = 0; index < encrypted.length; index++) {
    const changed = encrypted.with(index, (encrypted[index] ?? 0) ^ 1);
    expect(decrypt([key], "we_1", changed)).toBeNull();
    expect(decrypt([key], "we_1", encrypted.subarray(0, index))).toBeNull();
  }
});

// By Python's `cryptography`: HKDF(SHA256(), 32, None, b"graft secrets at rest"), then AESGCM with the nonce 00 01 … 0b.
test("another implementation's ciphertext is read", () => {
  const encrypted = Buffer.from(
    "016578f12845b8dae9000102030405060708090a0b06d71497c402ec6a0faa0778ed7ec8a2c7d2fe7915d3832fee2e42bcdbbc",
    "hex",
  );
  expect(decrypt([key], "we_1", new Uint8Array(encrypted))).toBe("whsec_dGVzdA==");
});
