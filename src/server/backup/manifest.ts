/** The list of a backup's files, by which a restored state is checked. */
import { createHash } from "node:crypto";
import { createReadStream, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UsageError } from "../../lib/usage-error.ts";
import { listFiles } from "./snapshot.ts";

export const MANIFEST = "manifest.json";

const manifest = z.object({
  format: z.literal(1),
  created_at: z.string(),
  files: z.array(z.object({ path: z.string(), bytes: z.int(), sha256: z.string() })),
});
export type Manifest = z.infer<typeof manifest>;

async function describeFile(folder: string, path: string): Promise<Manifest["files"][number]> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(join(folder, path))) hash.update(chunk);
  return { path, bytes: statSync(join(folder, path)).size, sha256: hash.digest("hex") };
}

export async function makeManifest(folder: string, createdAt: Date): Promise<Manifest> {
  const files: Manifest["files"] = [];
  for (const path of listFiles(folder)) files.push(await describeFile(folder, path));
  return { format: 1, created_at: createdAt.toISOString(), files };
}

/** Checks that a folder holds its manifest and exactly the files in it. Throws a UsageError if not. */
export async function checkManifest(folder: string): Promise<Manifest> {
  const damaged = new UsageError("The backup is damaged: its files are not those that it lists.");
  const paths = listFiles(folder).filter((path) => path !== MANIFEST);
  const expected = readManifest(folder);
  if (expected === null || expected.files.length !== paths.length) throw damaged;
  for (const [i, file] of expected.files.entries()) {
    if (file.path !== paths[i]) throw damaged;
    const { bytes, sha256 } = await describeFile(folder, file.path);
    if (bytes !== file.bytes || sha256 !== file.sha256) throw damaged;
  }
  return expected;
}

function readManifest(folder: string): Manifest | null {
  try {
    return manifest.parse(JSON.parse(readFileSync(join(folder, MANIFEST), "utf8")));
  } catch {
    return null;
  }
}
