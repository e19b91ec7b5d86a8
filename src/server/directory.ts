/** The file of the directory of tenants, whose rows hold their names. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";

/** How long the runtime may keep a lock on the file. The directory waits meanwhile, so it keeps none for long. */
const LOCK_TIMEOUT_MS = 2_000;

/**
 * Writes the directory's database anew and empties its write-ahead log, so that no byte of deleted rows stays in its
 * files. The runtime has the database open; nothing may write to it meanwhile, or that write fails. Throws if it cannot.
 */
export function rewriteDirectory(stateDir: string): void {
  const folder = join(stateDir, "do", "-Directory");
  if (!existsSync(folder)) return;
  for (const name of readdirSync(folder).filter((file) => /^[0-9a-f]{64}\.sqlite$/.test(file))) {
    const database = new DatabaseSync(join(folder, name), { timeout: LOCK_TIMEOUT_MS });
    try {
      database.exec("PRAGMA temp_store = MEMORY; VACUUM");
      const { busy } = database.prepare("PRAGMA wal_checkpoint(TRUNCATE)").get() ?? {};
      if (busy !== 0) throw new Error("The directory's write-ahead log is in use.");
    } finally {
      database.close();
    }
  }
}
