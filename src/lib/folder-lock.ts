/** Keeps a second process off a folder that only one may use at a time. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";

const SQLITE_BUSY = 5;

/**
 * Makes the folder, where it is not there, and locks it; null where another holds it. The lock is the system's own on an
 * empty database, so that it ends with this process, however that ends. Throws where the folder cannot be used.
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
