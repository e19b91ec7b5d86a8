/** A copy of the state at one instant. */
import { constants, copyFileSync, existsSync, linkSync, mkdirSync, readdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { UsageError } from "../../lib/usage-error.ts";
import { tryLockStateDir } from "../state.ts";
import { withFrozenRuntime } from "./freeze.ts";

/** What a backup holds: databases, blobs and secrets. The rest of the state folder is made anew by a server. */
const STORES = ["do", "r2", "kv"];
const SECRETS = ["server-key", "batch-secret"];

/**
 * Copies the state to a folder on the same disk, and checks each database. A running server stands still meanwhile; if its
 * runtime is just starting, this waits for it for `waitMs`.
 */
export async function takeSnapshot(stateDir: string, target: string, waitMs: number): Promise<void> {
  const lock = tryLockStateDir(stateDir);
  try {
    if (lock === null) await withFrozenRuntime(stateDir, waitMs, () => copyState(stateDir, target));
    else copyState(stateDir, target);
  } finally {
    lock?.close();
  }
  for (const path of listFiles(target)) if (path.endsWith(".sqlite")) checkDatabase(join(target, path), path);
}

/** The files below a folder: relative paths, sorted. */
export function listFiles(folder: string): string[] {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => !entry.isDirectory())
    .map(({ parentPath, name }) => join(parentPath, name).slice(folder.length + 1))
    .sort();
}

function copyState(stateDir: string, target: string): void {
  const stores = STORES.filter((store) => existsSync(join(stateDir, store)));
  const paths = stores.flatMap((store) => listFiles(join(stateDir, store)).map((path) => join(store, path)));
  const secrets = SECRETS.filter((secret) => existsSync(join(stateDir, secret)));
  // A database's index of its write-ahead log is made anew from the log.
  const databases = paths.filter((path) => /\.sqlite(?:-wal|-journal)?$/.test(path));
  const blobs = paths.filter((path) => !/\.sqlite(?:-[a-z]+)?$/.test(path));
  const before = databases.map((path) => changedAt(join(stateDir, path)));
  for (const path of [...databases, ...secrets]) copy(join(stateDir, path), join(target, path));
  for (const path of blobs) link(join(stateDir, path), join(target, path));
  if (databases.some((path, i) => changedAt(join(stateDir, path)) !== before[i]))
    throw new UsageError("The state changed while it was copied. Try again.");
}

function changedAt(path: string): string {
  const { size, mtimeNs } = statSync(path, { bigint: true });
  return `${size} ${mtimeNs}`;
}

function copy(source: string, target: string): void {
  mkdirSync(dirname(target), { recursive: true });
  // On some file systems a copy shares its blocks with the source, and takes no time.
  copyFileSync(source, target, constants.COPYFILE_FICLONE);
}

/** Gives a blob a second name: its bytes never change, so it need not be copied. */
function link(source: string, target: string): void {
  mkdirSync(dirname(target), { recursive: true });
  try {
    linkSync(source, target);
  } catch {
    copyFileSync(source, target, constants.COPYFILE_FICLONE);
  }
}

/** Applies a database's write-ahead log, as SQLite does after a crash, and checks its structure. */
function checkDatabase(file: string, path: string): void {
  const database = new DatabaseSync(file);
  try {
    database.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    const [problem] = Object.values(database.prepare("PRAGMA quick_check(1)").get() ?? {});
    if (problem !== "ok") throw new Error(String(problem));
  } catch (error) {
    throw new UsageError(`The database '${path}' of the state is damaged: ${(error as Error).message}.`);
  } finally {
    database.close();
  }
}
