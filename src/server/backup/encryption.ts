/**
 * The encryption of a backup. File: "GRAFTBK1", salt (16 bytes), the first 16 bytes of HMAC-SHA-256 of both, then chunks of
 * 64 KiB, each under AES-256-GCM with its tag (16 bytes) behind it; the last one may be shorter. scrypt of the passphrase
 * gives the keys of both. A chunk's nonce is its number and whether it is the last one (the STREAM construction of Hoang,
 * Reyhanitabar, Rogaway and Vizár, 2015), so that none can be changed, moved, left out or cut off unnoticed.
 */
import { createCipheriv, createDecipheriv, createHmac, randomBytes, scrypt, timingSafeEqual } from "node:crypto";
import { promisify } from "node:util";
import { UsageError } from "../../lib/usage-error.ts";

export const MAGIC = Buffer.from("GRAFTBK1");
const SALT_BYTES = 16;
const MAC_BYTES = 16;
export const HEADER_BYTES = MAGIC.length + SALT_BYTES + MAC_BYTES;
const CHUNK_BYTES = 65_536;
const TAG_BYTES = 16;
const CIPHER = "aes-256-gcm";
/** 128 MiB of memory for each guess of a passphrase. */
const SCRYPT_COST = { N: 2 ** 17, r: 8, p: 1, maxmem: 2 ** 28 };

const deriveBytes = promisify<string, Buffer, number, object, Buffer>(scrypt);

async function deriveKeys(passphrase: string, salt: Buffer): Promise<{ key: Buffer; macKey: Buffer }> {
  const bytes = await deriveBytes(passphrase.normalize("NFKC"), salt, 64, SCRYPT_COST);
  return { key: bytes.subarray(0, 32), macKey: bytes.subarray(32) };
}

function makeHeader(salt: Buffer, macKey: Buffer): Buffer {
  const start = Buffer.concat([MAGIC, salt]);
  return Buffer.concat([start, createHmac("sha256", macKey).update(start).digest().subarray(0, MAC_BYTES)]);
}

function makeNonce(number: number, isLast: boolean): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeUIntBE(number, 5, 6);
  nonce[11] = isLast ? 1 : 0;
  return nonce;
}

/** Bytes in chunks of one size. The last one may be shorter, and is empty if there are no bytes. */
async function* toChunks(source: AsyncIterable<Buffer>, size: number) {
  let pending: Buffer = Buffer.alloc(0);
  for await (const bytes of source) {
    pending = Buffer.concat([pending, bytes]);
    // A whole chunk is the last one unless a byte follows it.
    for (; pending.length > size; pending = pending.subarray(size))
      yield { chunk: pending.subarray(0, size), isLast: false };
  }
  yield { chunk: pending, isLast: true };
}

/** The encrypted file of a stream of bytes. */
export async function* encrypt(source: AsyncIterable<Buffer>, passphrase: string): AsyncGenerator<Buffer> {
  const salt = randomBytes(SALT_BYTES);
  const { key, macKey } = await deriveKeys(passphrase, salt);
  yield makeHeader(salt, macKey);
  let number = 0;
  for await (const { chunk, isLast } of toChunks(source, CHUNK_BYTES)) {
    const cipher = createCipheriv(CIPHER, key, makeNonce(number++, isLast));
    yield Buffer.concat([cipher.update(chunk), cipher.final(), cipher.getAuthTag()]);
  }
}

/** The key of an encrypted file, from its header. Throws a UsageError if the passphrase is not the file's. */
export async function openHeader(header: Buffer, passphrase: string): Promise<Buffer> {
  const salt = header.subarray(MAGIC.length, MAGIC.length + SALT_BYTES);
  const { key, macKey } = await deriveKeys(passphrase, salt);
  if (header.length === HEADER_BYTES && timingSafeEqual(makeHeader(salt, macKey), header)) return key;
  throw new UsageError("The passphrase is wrong, or the backup's first bytes are damaged.");
}

/** The bytes of an encrypted file, from what follows its header. Throws a UsageError if they are not those encrypted. */
export async function* decrypt(source: AsyncIterable<Buffer>, key: Buffer): AsyncGenerator<Buffer> {
  let number = 0;
  for await (const { chunk, isLast } of toChunks(source, CHUNK_BYTES + TAG_BYTES))
    yield decryptChunk(chunk, key, makeNonce(number++, isLast));
}

function decryptChunk(chunk: Buffer, key: Buffer, nonce: Buffer): Buffer {
  const end = Math.max(0, chunk.length - TAG_BYTES);
  try {
    const decipher = createDecipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES });
    decipher.setAuthTag(chunk.subarray(end));
    return Buffer.concat([decipher.update(chunk.subarray(0, end)), decipher.final()]);
  } catch {
    throw new UsageError("The backup is damaged, or its end is missing.");
  }
}
