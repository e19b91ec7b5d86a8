/** The state folder of a server on this machine: its lock, and the secrets that belong to the stored state. */
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { lockFolder } from "../lib/folder-lock.ts";
import { UsageError } from "../lib/usage-error.ts";

/** Makes the folder where there is none, for this user alone. Throws a UsageError if it cannot hold the state. */
export function prepareStateDir(stateDir: string): void {
  try {
    makeFolder(stateDir);
    chmodSync(stateDir, 0o700);
    accessSync(stateDir, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    throw unusable(stateDir, error);
  }
}

/** Makes a folder and those above it. Node's own recursion never ends in a file system that has no new folders. */
function makeFolder(folder: string): void {
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory()) return;
  makeFolder(dirname(folder));
  mkdirSync(folder, { mode: 0o700 });
}

function unusable(stateDir: string, error: unknown): UsageError {
  return new UsageError(`The state cannot be kept in STATE_DIR '${stateDir}': ${(error as Error).message}.`);
}

/**
 * Locks the folder against a second server: both would fail at every other request. A runtime that outlived its server
 * holds a lock of its own (launch-workerd.sh), which is waited for. Throws a UsageError if the folder cannot be locked.
 */
export function lockStateDir(stateDir: string): { close(): void } {
  prepareStateDir(stateDir);
  const lock = tryLockStateDir(stateDir);
  if (lock !== null) return lock;
  throw new UsageError(`Another server runs on the state in '${stateDir}'. Stop it, or set another STATE_DIR.`);
}

/** The same for a folder that exists; null if a server runs on it. */
export function tryLockStateDir(stateDir: string): { close(): void } | null {
  let lock: ReturnType<typeof lockFolder>;
  try {
    lock = lockFolder(stateDir);
  } catch (error) {
    throw unusable(stateDir, error);
  }
  if (lock !== null && !isWritten(stateDir)) return lock;
  lock?.close();
  return null;
}

/** Whether a runtime still writes the state after some seconds, in which one whose server was killed ends. */
function isWritten(stateDir: string): boolean {
  return spawnSync("flock", ["--exclusive", "--wait", "5", stateDir, "true"]).status === 1;
}

/**
 * The key that signs API keys. Throws a UsageError if it is missing beside what it has signed: a new key would refuse
 * every API key that is in use.
 */
export function loadServerKey(stateDir: string): string {
  const file = join(stateDir, "server-key");
  if (!existsSync(file) && holdsData(stateDir))
    throw new UsageError(
      `'${file}' is missing, and all API keys of the state beside it are signed with it. Restore the file from a backup, or set another STATE_DIR.`,
    );
  return loadOrCreateSecret(file, () => randomBytes(32).toString("hex"));
}

/** Whether the runtime has stored anything: its folders are there from its first start on, and empty until then. */
function holdsData(stateDir: string): boolean {
  return ["do", "r2", "kv"].some((name) => {
    const folder = join(stateDir, name);
    return existsSync(folder) && readdirSync(folder).length > 0;
  });
}

/** The secret that signs the messages between the Worker and the batch endpoint on this machine. */
export function loadBatchSecret(stateDir: string): string {
  return loadOrCreateSecret(join(stateDir, "batch-secret"), () => `whsec_${randomBytes(32).toString("base64")}`);
}

/** The secret in a file. If there is none, generates one and writes it there. */
function loadOrCreateSecret(file: string, generate: () => string): string {
  if (existsSync(file)) return readFileSync(file, "utf8").trim();
  const secret = generate();
  writeFileSync(`${file}.new`, `${secret}\n`, { mode: 0o600 });
  renameSync(`${file}.new`, file);
  return secret;
}
