/** Makes the state folder of a server from a backup. */
import {
  closeSync,
  createReadStream,
  existsSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmdirSync,
  rmSync,
} from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { unpackTar } from "modern-tar/fs";
import { UsageError } from "../../lib/usage-error.ts";
import { lockStateDir } from "../state.ts";
import { decrypt, HEADER_BYTES, MAGIC, openHeader } from "./encryption.ts";
import { checkManifest, MANIFEST, type Manifest } from "./manifest.ts";

const GZIP_MAGIC = Buffer.from([0x1f, 0x8b]);

export interface RestoreOptions {
  /** A folder that is empty or not there. */
  readonly stateDir: string;
  readonly file: string;
  /** Called if the backup is encrypted. */
  readonly getPassphrase: () => Promise<string>;
}

/** Restores a backup. Throws a UsageError, and leaves the folder as it was, if it cannot. */
export async function restore({ stateDir, file, getPassphrase }: RestoreOptions): Promise<Manifest> {
  const exists = existsSync(stateDir);
  if (exists && readdirSync(stateDir).length > 0)
    throw new UsageError(`'${stateDir}' is not empty. Restore into a STATE_DIR that is empty or does not exist.`);
  const header = readHeader(file);
  const isEncrypted = header.subarray(0, MAGIC.length).equals(MAGIC);
  if (!isEncrypted && !header.subarray(0, GZIP_MAGIC.length).equals(GZIP_MAGIC))
    throw new UsageError(`'${file}' is no backup.`);
  const key = isEncrypted ? await openHeader(header, await getPassphrase()) : null;
  const lock = lockStateDir(stateDir);
  const folder = join(stateDir, "restore");
  let isComplete = false;
  try {
    await unpack(file, key, folder);
    const manifest = await checkManifest(folder);
    rmSync(join(folder, MANIFEST));
    // The server key last: a server refuses to start on a state without it, and so on half of one.
    const isKey = (name: string) => Number(name === "server-key");
    for (const name of readdirSync(folder).sort((a, b) => isKey(a) - isKey(b)))
      renameSync(join(folder, name), join(stateDir, name));
    isComplete = true;
    return manifest;
  } finally {
    lock.close();
    if (isComplete) rmdirSync(folder);
    else for (const name of readdirSync(stateDir)) rmSync(join(stateDir, name), { recursive: true });
    if (!isComplete && !exists) rmdirSync(stateDir);
  }
}

function readHeader(file: string): Buffer {
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    const descriptor = openSync(file, "r");
    try {
      return header.subarray(0, readSync(descriptor, header));
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    throw new UsageError(`'${file}' cannot be read: ${(error as Error).message}.`);
  }
}

async function unpack(file: string, key: Buffer | null, folder: string): Promise<void> {
  // Nothing but files: a link could lead out of the folder.
  const output = unpackTar(folder, { filter: ({ type }) => type === "file", fmode: 0o600, dmode: 0o700 });
  try {
    if (key === null) await pipeline(createReadStream(file), createGunzip(), output);
    else
      await pipeline(
        createReadStream(file, { start: HEADER_BYTES }),
        (bytes) => decrypt(bytes, key),
        createGunzip(),
        output,
      );
  } catch (error) {
    if (error instanceof UsageError) throw error;
    const { message, syscall } = error as NodeJS.ErrnoException;
    if (syscall !== undefined) throw new UsageError(`The backup could not be unpacked: ${message}.`);
    throw new UsageError("The backup is damaged, or its end is missing.");
  }
}
