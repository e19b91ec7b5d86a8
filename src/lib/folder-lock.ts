/** A lock on a folder that only one process may use at a time. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";

const SQLITE_BUSY = 5;

/**
 * Makes the folder if it does not exist, and locks it; null if another process holds the lock. The lock is the operating
 * system's, on an empty SQLite database, and so ends with this process. Throws if the folder cannot be used.
 */
export function lockFolder(folder: string): { close(): void } | null {
  mkdirSync(folder, { recursive: true });
  const lock = new DatabaseSync(join(folder, "lock"));
  try {
    lock.exec("BEGIN EXCLUSIVE");
    return lock;
  } catch (error) {
    lock.close();
    if ((error as { errcode?: number }).errcode === SQLITE_BUSY) return null;
    throw error;
  }
}
