/** Results of long measurements, kept case by case in .graft/bench, so that one that was cut off goes on where it was. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** What was measured of a case before, or else what is measured now. Deleting the folder measures anew. */
export async function cached<T>(bench: string, name: string, measure: () => Promise<T>): Promise<T> {
  const folder = join(".graft", "bench", bench);
  const file = join(folder, `${name.replace(/[^a-z0-9_.-]+/gi, "-")}.json`);
  if (existsSync(file)) return JSON.parse(readFileSync(file, "utf8")) as T;
  const result = await measure();
  mkdirSync(folder, { recursive: true });
  writeFileSync(file, `${JSON.stringify(result)}\n`);
  return result;
}
