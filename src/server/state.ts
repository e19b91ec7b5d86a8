/** The state folder of a server on this machine: its lock, and the secrets that belong to the stored state. */
import { randomBytes } from "node:crypto";
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { lockFolder } from "../lib/folder-lock.ts";
import { UsageError } from "../lib/usage-error.ts";

/** Locks the folder against a second server: both would fail at every other request. Throws a UsageError if it cannot. */
export function lockStateDir(stateDir: string): { close(): void } {
  let lock: ReturnType<typeof lockFolder>;
  try {
    lock = lockFolder(stateDir);
  } catch (error) {
    throw new UsageError(`The state cannot be kept in STATE_DIR '${stateDir}': ${(error as Error).message}.`);
  }
  if (lock !== null) return lock;
  throw new UsageError(`Another server runs on the state in '${stateDir}'. Stop it, or set another STATE_DIR.`);
}

/** The key that signs API keys. */
export function loadServerKey(stateDir: string): string {
  return loadOrCreateSecret(join(stateDir, "server-key"), () => randomBytes(32).toString("hex"));
}

/** The secret that signs the messages between the Worker and the batch endpoint on this machine. */
export function loadBatchSecret(stateDir: string): string {
  return loadOrCreateSecret(join(stateDir, "batch-secret"), () => `whsec_${randomBytes(32).toString("base64")}`);
}

/** The secret in a file. If there is none, generates one and writes it there. */
function loadOrCreateSecret(file: string, generate: () => string): string {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    const secret = generate();
    writeFileSync(`${file}.new`, `${secret}\n`, { mode: 0o600 });
    renameSync(`${file}.new`, file);
    return secret;
  }
}
