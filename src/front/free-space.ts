import { statfs } from "node:fs/promises";

const CHECK_MS = 1_000;

export interface FreeSpace {
  readonly isLow: () => boolean;
  readonly stop: () => void;
}

/** Watches whether the disk of a folder has fewer free bytes than `minFreeBytes`. */
export async function watchFreeSpace(folder: string, minFreeBytes: number): Promise<FreeSpace> {
  let isLow = false;
  const check = async () => {
    const { bavail, bsize } = await statfs(folder);
    isLow = bavail * bsize < minFreeBytes;
  };
  await check();
  const timer = setInterval(() => check().catch(() => undefined), CHECK_MS).unref();
  return { isLow: () => isLow, stop: () => clearInterval(timer) };
}
