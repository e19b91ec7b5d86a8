/** Stores the results of long measurements, case by case, in .graft/bench. An interrupted measurement resumes there. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** The stored result of a case, or else a new measurement. To measure again, delete the folder. */
export async function cached<T>(bench: string, name: string, measure: () => Promise<T>): Promise<T> {
  const folder = join(".graft", "bench", bench);
  const file = join(folder, `${name.replace(/[^a-z0-9_.-]+/gi, "-")}.json`);
  if (existsSync(file)) return JSON.parse(readFileSync(file, "utf8")) as T;
  const result = await measure();
  mkdirSync(folder, { recursive: true });
  writeFileSync(file, `${JSON.stringify(result)}\n`);
  return result;
}
