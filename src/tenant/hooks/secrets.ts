/**
 * The secrets of webhook endpoints and inbound hooks, encrypted in the ledger under a key of the server key. Earlier builds
 * stored them as text. The task `encrypt_secrets` encrypts those, and the secrets under a previous server key, again.
 */
import { decrypt, deriveEncryptionKey, type EncryptionKey, encrypt, encryptionKeyId } from "../../lib/encryption.ts";
import { EARLIEST_RUN_AT, schedule } from "../tasks/tasks.ts";

/** A ciphertext, or the secret itself as earlier builds stored it. */
export type StoredSecret = ArrayBuffer | string;

/** The keys that decrypt; the first one encrypts. */
export type SecretKeys = readonly EncryptionKey[];

export function deriveSecretKeys({ SERVER_KEY, PREVIOUS_SERVER_KEY }: Cloudflare.Env): SecretKeys {
  return [SERVER_KEY, PREVIOUS_SERVER_KEY].filter((key): key is string => !!key).map(deriveEncryptionKey);
}

/** Encrypts the secret of an endpoint or a hook. The ciphertext is of use in the rows of this owner alone. */
export function encryptSecret([current]: SecretKeys, owner: string, secret: string): ArrayBuffer {
  if (current === undefined) throw new Error("SERVER_KEY is not set.");
  return encrypt(current, owner, secret).buffer;
}

/** The secret, or null if it was encrypted under another key than these. */
export function decryptSecret(keys: SecretKeys, owner: string, stored: StoredSecret): string | null {
  return typeof stored === "string" ? stored : decrypt(keys, owner, new Uint8Array(stored));
}

/** The columns that hold secrets. */
const COLUMNS = [
  { table: "webhook_endpoints", column: "secret" },
  { table: "webhook_endpoints", column: "previous_secret" },
  { table: "inbound_hooks", column: "secret" },
] as const;

interface SecretRow extends Record<string, SqlStorageValue> {
  number: number;
  id: string;
  secret: StoredSecret;
}

/** Encrypts every secret that is not under the current key. Answers the owners of those that no key decrypts. */
export function encryptSecrets(sql: SqlStorage, keys: SecretKeys): string[] {
  const currentId = keys[0]?.id ?? null;
  const unreadable: string[] = [];
  for (const { table, column } of COLUMNS) {
    const select = `SELECT number, id, ${column} AS secret FROM ${table} WHERE ${column} IS NOT NULL`;
    for (const { number, id, secret: stored } of sql.exec<SecretRow>(select).toArray()) {
      if (typeof stored !== "string" && encryptionKeyId(new Uint8Array(stored)) === currentId) continue;
      const secret = decryptSecret(keys, id, stored);
      if (secret === null) unreadable.push(id);
      else sql.exec(`UPDATE ${table} SET ${column} = ? WHERE number = ?`, encryptSecret(keys, id, secret), number);
    }
  }
  // Unreadable secrets are tried again when the object next starts, with the keys that the operator has set by then.
  if (unreadable.length === 0) sql.exec("UPDATE ledger SET secrets_key = ?", currentId);
  return unreadable;
}

/** Schedules `encrypt_secrets` if the secrets may not all be under the current key. Answers whether it did. */
export function scheduleEncryption(sql: SqlStorage, keys: SecretKeys): boolean {
  const { secrets_key } = sql.exec<{ secrets_key: string | null }>("SELECT secrets_key FROM ledger").one();
  if (secrets_key === (keys[0]?.id ?? null)) return false;
  schedule(sql, "encrypt_secrets", "", EARLIEST_RUN_AT);
  return true;
}
