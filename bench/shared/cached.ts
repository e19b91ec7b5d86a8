/** Stores the results of long measurements, case by case, in .graft/bench. An interrupted measurement resumes there. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** The stored result of a case, or else a new measurement. To measure again, delete the folder. */
export async function cached<T>(bench: string, name: string, measure: () => Promise<T>): Promise<T> {
  const stored = readStored<T>(bench, name);
  if (stored !== null) return stored;
  const result = await measure();
  const file = fileOf(bench, name);
  mkdirSync(join(file, ".."), { recursive: true });
  writeFileSync(file, `${JSON.stringify(result)}\n`);
  return result;
}

/** The stored result of a case; null if it has not been measured. */
export function readStored<T>(bench: string, name: string): T | null {
  const file = fileOf(bench, name);
  return existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as T) : null;
}

function fileOf(bench: string, name: string): string {
  return join(".graft", "bench", bench, `${name.replace(/[^a-z0-9_.-]+/gi, "-")}.json`);
}
