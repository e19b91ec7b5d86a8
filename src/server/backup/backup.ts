/** Writes the state of a server, running or not, into one file: a tar archive, compressed and encrypted. */
import { createWriteStream, existsSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { packTar, type TarSource } from "modern-tar/fs";
import { lockFolder } from "../../lib/folder-lock.ts";
import { UsageError } from "../../lib/usage-error.ts";
import { encrypt } from "./encryption.ts";
import { MANIFEST, type Manifest, makeManifest } from "./manifest.ts";
import { takeSnapshot } from "./snapshot.ts";

export interface BackupOptions {
  readonly stateDir: string;
  readonly file: string;
  /** Null for a backup that is not encrypted. */
  readonly passphrase: string | null;
  /** How long a runtime may take to start, or to start again after a crash; 30 seconds by default. */
  readonly waitMs?: number;
}

/** Backs the state up. Throws a UsageError, and leaves no file, if it cannot. */
export async function backUp({ stateDir, file, passphrase, waitMs = 30_000 }: BackupOptions): Promise<Manifest> {
  if (!existsSync(join(stateDir, "server-key"))) throw new UsageError(`There is no state in '${stateDir}'.`);
  if (existsSync(file)) throw new UsageError(`'${file}' exists. Name a file that does not.`);
  // In the state folder, so that blobs need no copy.
  const folder = join(stateDir, "backup");
  const lock = lockFolder(folder);
  if (lock === null) throw new UsageError(`Another backup of '${stateDir}' is being made.`);
  const snapshot = join(folder, "state");
  try {
    // What a killed backup has left.
    rmSync(snapshot, { recursive: true, force: true });
    await takeSnapshot(stateDir, snapshot, waitMs);
    const manifest = await makeManifest(snapshot, new Date());
    await writeArchive(snapshot, manifest, file, passphrase);
    return manifest;
  } finally {
    rmSync(folder, { recursive: true, force: true });
    lock.close();
  }
}

async function writeArchive(
  folder: string,
  manifest: Manifest,
  file: string,
  passphrase: string | null,
): Promise<void> {
  const sources: TarSource[] = [
    { type: "content", content: JSON.stringify(manifest), target: MANIFEST, mode: 0o600 },
    ...manifest.files.map(({ path }) => ({ type: "file" as const, source: join(folder, path), target: path })),
  ];
  const part = `${file}.part`;
  try {
    const archive = packTar(sources);
    const output = createWriteStream(part, { mode: 0o600, flush: true });
    if (passphrase === null) await pipeline(archive, createGzip({ level: 1 }), output);
    else await pipeline(archive, createGzip({ level: 1 }), (bytes) => encrypt(bytes, passphrase), output);
    renameSync(part, file);
  } catch (error) {
    rmSync(part, { force: true });
    throw new UsageError(`'${file}' could not be written: ${(error as Error).message}.`);
  }
}
