/** Records on disk of the attempts that run here. After a crash, the next process reports them to the Worker as lost. */
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { lockFolder } from "../../lib/folder-lock.ts";
import { UsageError } from "../../lib/usage-error.ts";
import type { AttemptCredentials } from "../client/worker-client.ts";

export interface WorkFolder {
  /** The attempts that were running when the previous process ended. */
  readonly orphanedAttempts: readonly AttemptCredentials[];
  add(credentials: AttemptCredentials): void;
  remove(credentials: AttemptCredentials): void;
  close(): void;
}

const RECORD = /^ftjob-[0-9a-f]{32}\.\d+\.json$/;

/** Opens the folder for this process alone, and deletes half-written files. Throws a UsageError if it cannot. */
export function openWorkFolder(folder: string): WorkFolder {
  const wrapErrors = <T>(run: () => T): T => {
    try {
      return run();
    } catch (error) {
      throw new UsageError(`WORK_DIR '${folder}' cannot be used: ${(error as Error).message}.`);
    }
  };
  const lock = wrapErrors(() => lockFolder(folder));
  if (lock === null)
    throw new UsageError(`Another batch endpoint works in '${folder}'. Stop it, or set another WORK_DIR.`);
  const recordPath = ({ id, attempt }: AttemptCredentials) => join(folder, `${id}.${attempt}.json`);
  const orphanedAttempts = wrapErrors(() => {
    const files = readdirSync(folder);
    for (const file of files.filter((name) => name.endsWith(".new"))) rmSync(join(folder, file));
    return files.filter((name) => RECORD.test(name)).flatMap((name) => readRecord(join(folder, name)));
  });
  return {
    orphanedAttempts,
    add(credentials) {
      const { id, attempt, token } = credentials;
      writeFileSync(`${recordPath(credentials)}.new`, JSON.stringify({ id, attempt, token }), { mode: 0o600 });
      renameSync(`${recordPath(credentials)}.new`, recordPath(credentials));
    },
    remove: (credentials) => rmSync(recordPath(credentials), { force: true }),
    close: () => lock.close(),
  };
}

/** The record in a file. A file without a valid record is deleted. */
function readRecord(file: string): AttemptCredentials[] {
  try {
    const { id, attempt, token } = JSON.parse(readFileSync(file, "utf8"));
    if (typeof id === "string" && Number.isInteger(attempt) && typeof token === "string")
      return [{ id, attempt, token }];
  } catch {
    // No valid JSON.
  }
  rmSync(file, { force: true });
  return [];
}
