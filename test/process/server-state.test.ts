/** The state folder of a server on this machine. */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { UsageError } from "../../src/lib/usage-error.ts";
import { loadBatchSecret, loadServerKey, lockStateDir, prepareStateDir } from "../../src/server/state.ts";

const folder = mkdtempSync(join(tmpdir(), "graft-state-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const mode = (path: string) => statSync(path).mode & 0o777;

test("the folder and its secrets are for this user alone, also if the folder was open before", () => {
  const stateDir = join(folder, "open");
  mkdirSync(stateDir);
  chmodSync(stateDir, 0o755);
  prepareStateDir(stateDir);
  const secrets = [loadServerKey(stateDir), loadBatchSecret(stateDir)];
  expect([loadServerKey(stateDir), loadBatchSecret(stateDir)]).toEqual(secrets);
  expect([stateDir, join(stateDir, "server-key"), join(stateDir, "batch-secret")].map(mode)).toEqual([
    0o700, 0o600, 0o600,
  ]);
});

test("a server key that is missing beside existing state is not replaced", () => {
  for (const stored of ["do/graft-Tenant/a.sqlite", "r2/graft/blobs/a", "kv/graft/a"]) {
    const stateDir = join(folder, stored.slice(0, 2));
    prepareStateDir(stateDir);
    const key = loadServerKey(stateDir);
    mkdirSync(join(stateDir, stored, ".."), { recursive: true });
    writeFileSync(join(stateDir, stored), "");
    expect(loadServerKey(stateDir)).toBe(key);
    rmSync(join(stateDir, "server-key"));
    expect(() => loadServerKey(stateDir)).toThrow(UsageError);
    expect(() => loadServerKey(stateDir)).toThrow(/^'.*server-key' is missing.*Restore the file from a backup/);
  }
});

test("the runtime's empty folders are no state", () => {
  const stateDir = join(folder, "empty");
  for (const name of ["do", "r2", "kv"]) mkdirSync(join(stateDir, name), { recursive: true });
  expect(loadServerKey(stateDir)).toMatch(/^[0-9a-f]{64}$/);
});

test("a folder that cannot be written is refused in one line", () => {
  writeFileSync(join(folder, "file"), "");
  // Linux has no new folders in /proc, whoever asks.
  for (const stateDir of [join(folder, "file"), join(folder, "file", "below"), "/proc/state", "/proc/state/below"]) {
    expect(() => prepareStateDir(stateDir)).toThrow(UsageError);
    expect(() => prepareStateDir(stateDir)).toThrow(/^The state cannot be kept in STATE_DIR '[^\n]*\.$/);
  }
});

test("one server at a time", () => {
  const stateDir = join(folder, "locked");
  const lock = lockStateDir(stateDir);
  expect(() => lockStateDir(stateDir)).toThrow(/^Another server runs on the state/);
  lock.close();
  lockStateDir(stateDir).close();
});
