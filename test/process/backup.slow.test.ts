/** Backups of a state that no server runs on, and what a restoration refuses. */
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lockFolder } from "../../src/lib/folder-lock.ts";
import { backUp } from "../../src/server/backup/backup.ts";
import { restore } from "../../src/server/backup/restore.ts";
import { listFiles } from "../../src/server/backup/snapshot.ts";

const folder = mkdtempSync(join(tmpdir(), "graft-backup-"));
const stateDir = join(folder, "state");
const encrypted = join(folder, "state.backup");
const plain = join(folder, "state.tar.gz");
const passphrase = "correct horse battery staple";
const database = join("do", "-Tenant", `${"a".repeat(64)}.sqlite`);
let open: DatabaseSync;

function write(path: string, content: string | Uint8Array): void {
  mkdirSync(dirname(join(stateDir, path)), { recursive: true });
  writeFileSync(join(stateDir, path), content);
}

beforeAll(async () => {
  write("server-key", "the server key\n");
  write("batch-secret", "whsec_…\n");
  write("r2/graft/blobs/b10b", Buffer.alloc(200_000, "blob"));
  write("r2/graft/blobs/empty", "");
  write("ratelimit/counts", "not worth keeping");
  write("batch/ftjob.json", "made anew");
  mkdirSync(dirname(join(stateDir, database)), { recursive: true });
  open = new DatabaseSync(join(stateDir, database));
  open.exec("PRAGMA journal_mode = WAL; CREATE TABLE rows (text); INSERT INTO rows VALUES ('in the write-ahead log')");
  await backUp({ stateDir, file: encrypted, passphrase });
  await backUp({ stateDir, file: plain, passphrase: null });
});
afterAll(() => {
  open.close();
  rmSync(folder, { recursive: true, force: true });
});

let count = 0;
const newFolder = () => join(folder, `restored-${++count}`);
const restoreTo = (target: string, file: string, answer = passphrase) =>
  restore({ stateDir: target, file, getPassphrase: async () => answer });

/** What `npm run backup` and `npm run restore` run. */
function run(command: string, args: string[], env: Record<string, string>) {
  const program = resolve(import.meta.dirname, "../../src/backup.ts");
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, command, ...args], {
    env: { ...process.env, STATE_DIR: stateDir, ...env },
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}

test.each([encrypted, plain])("%s: the restored state has the same files, for its user alone", async (file) => {
  const target = newFolder();
  const manifest = await restoreTo(target, file);
  const paths = ["batch-secret", database, "r2/graft/blobs/b10b", "r2/graft/blobs/empty", "server-key"];
  expect(manifest.files.map(({ path }) => path)).toEqual(paths);
  expect(listFiles(target).filter((path) => !path.startsWith("lock"))).toEqual(paths);
  for (const path of paths.filter((name) => name !== database))
    expect(readFileSync(join(target, path)).equals(readFileSync(join(stateDir, path)))).toBe(true);
  const restored = new DatabaseSync(join(target, database));
  expect(restored.prepare("SELECT text FROM rows").get()).toEqual({ text: "in the write-ahead log" });
  restored.close();
  expect([statSync(target), statSync(join(target, "server-key"))].map(({ mode }) => mode & 0o777)).toEqual([
    0o700, 0o600,
  ]);
});

test("an encrypted backup shows nothing, and two of one state differ", async () => {
  const bytes = readFileSync(encrypted);
  for (const text of ["the server key", "blob", "write-ahead", "manifest"]) expect(bytes.includes(text)).toBe(false);
  const again = join(folder, "again.backup");
  await backUp({ stateDir, file: again, passphrase });
  expect(readFileSync(again).subarray(8, 60).equals(bytes.subarray(8, 60))).toBe(false);
  expect(statSync(encrypted).mode & 0o777).toBe(0o600);
});

test("a backup leaves nothing in the state folder", () => {
  expect(existsSync(join(stateDir, "backup"))).toBe(false);
});

describe("a restoration refuses, and leaves nothing:", () => {
  async function expectRefused(file: string, message: RegExp, answer = passphrase): Promise<void> {
    const target = newFolder();
    await expect(restoreTo(target, file, answer)).rejects.toThrow(message);
    expect(existsSync(target)).toBe(false);
  }
  function damagedCopy(file: string, change: (bytes: Buffer) => Buffer): string {
    const path = join(folder, `damaged-${++count}`);
    writeFileSync(path, change(readFileSync(file)));
    return path;
  }
  const flip = (position: number) => (bytes: Buffer) => {
    const at = position < 0 ? bytes.length + position : position;
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    return bytes;
  };

  test("a wrong passphrase", () => expectRefused(encrypted, /^The passphrase is wrong/, `${passphrase}!`));

  test("the same into an empty folder, which stays empty", async () => {
    const target = newFolder();
    mkdirSync(target);
    await expect(restoreTo(target, encrypted, "another passphrase")).rejects.toThrow(/^The passphrase is wrong/);
    await expect(restoreTo(target, damagedCopy(plain, flip(-5)))).rejects.toThrow(/damaged/);
    expect(readdirSync(target)).toEqual([]);
  });

  test.each([8, 30, 40, 100, -1])("an encrypted backup with another bit in byte %d", async (position) => {
    await expectRefused(damagedCopy(encrypted, flip(position)), /damaged/);
  });

  test.each([20, 40, 41, 60, -1, -17])("an encrypted backup cut off at %d", async (length) => {
    await expectRefused(
      damagedCopy(encrypted, (bytes) => bytes.subarray(0, length)),
      /damaged/,
    );
  });

  test("an encrypted backup with bytes behind its end", async () => {
    await expectRefused(
      damagedCopy(encrypted, (bytes) => Buffer.concat([bytes, Buffer.from("more")])),
      /damaged/,
    );
  });

  test.each([200, -5])("a plain backup with another bit in byte %d", async (position) => {
    await expectRefused(damagedCopy(plain, flip(position)), /damaged/);
  });

  test.each([20, 500, -1])("a plain backup cut off at %d", async (length) => {
    await expectRefused(
      damagedCopy(plain, (bytes) => bytes.subarray(0, length)),
      /damaged/,
    );
  });

  test("what is no backup, and what is not there", async () => {
    await expectRefused(join(stateDir, "server-key"), /is no backup/);
    await expectRefused(join(folder, "nothing"), /cannot be read: ENOENT/);
    await expectRefused(folder, /cannot be read: EISDIR/);
  });

  test("a folder that is not empty, which stays as it is", async () => {
    const target = newFolder();
    mkdirSync(target);
    writeFileSync(join(target, "notes"), "mine");
    await expect(restoreTo(target, encrypted)).rejects.toThrow(/is not empty/);
    expect(readdirSync(target)).toEqual(["notes"]);
    await expect(restoreTo(stateDir, encrypted)).rejects.toThrow(/is not empty/);
  });
});

describe("a backup refuses", () => {
  test("a file that exists, a folder without a state, a place that is not there", async () => {
    await expect(backUp({ stateDir, file: plain, passphrase })).rejects.toThrow(/exists/);
    await expect(backUp({ stateDir: folder, file: join(folder, "x"), passphrase })).rejects.toThrow(/no state/);
    const nowhere = join(folder, "nowhere", "x");
    await expect(backUp({ stateDir, file: nowhere, passphrase })).rejects.toThrow(/could not be written: ENOENT/);
    expect(existsSync(join(stateDir, "backup"))).toBe(false);
  });

  test("a second one at the same time", async () => {
    const lock = lockFolder(join(stateDir, "backup"));
    await expect(backUp({ stateDir, file: join(folder, "x"), passphrase })).rejects.toThrow(/Another backup/);
    lock?.close();
    rmSync(join(stateDir, "backup"), { recursive: true });
  });

  test("a state that a server runs on whose runtime is not to be seen", async () => {
    const lock = lockFolder(stateDir);
    writeFileSync(join(stateDir, "runtime.pid"), `${process.pid}\n`);
    const file = join(folder, "x");
    await expect(backUp({ stateDir, file, passphrase, waitMs: 200 })).rejects.toThrow(/no runtime that can be seen/);
    expect(existsSync(file)).toBe(false);
    lock?.close();
    rmSync(join(stateDir, "runtime.pid"));
  });

  test("a damaged database", async () => {
    const damaged = join("do", "-Tenant", `${"b".repeat(64)}.sqlite`);
    write(damaged, "SQLite format 3\0 and then no database");
    await expect(backUp({ stateDir, file: join(folder, "x"), passphrase })).rejects.toThrow(/is damaged/);
    rmSync(join(stateDir, damaged));
  });
});

describe("the programs", () => {
  test("back up and restore, with the passphrase from the environment", () => {
    const env = { BACKUP_PASSPHRASE: passphrase };
    const file = join(folder, "program.backup");
    const backup = run("backup", [file], env);
    expect(backup).toMatchObject({ status: 0, stderr: "" });
    expect(backup.stdout).toMatch(/^Backed up .*state: 5 files, 0\.2 MB, as of .*\.\n$/);
    const target = newFolder();
    const restoration = run("restore", [file], { ...env, STATE_DIR: target });
    expect(restoration).toMatchObject({ status: 0, stderr: "" });
    expect(readFileSync(join(target, "server-key"), "utf8")).toBe("the server key\n");
  });

  test.each<[string, string, string[], Record<string, string>, RegExp]>([
    ["no passphrase", "backup", ["x"], {}, /^Set BACKUP_PASSPHRASE, or run this at a terminal.*\n$/],
    ["a short one", "backup", ["x"], { BACKUP_PASSPHRASE: "short" }, /^The passphrase has 5 characters.*\n$/],
    [
      "a wrong one",
      "restore",
      [encrypted],
      { BACKUP_PASSPHRASE: "another passphrase" },
      /^The passphrase is wrong.*\n$/,
    ],
    ["no file", "backup", [], {}, /^Usage:/],
    ["an unknown option", "backup", ["--fast", "x"], {}, /^Usage:/],
    ["another command", "copy", ["x"], {}, /^Usage:/],
  ])("end with one message and 1: %s", (_, command, args, env, message) => {
    const target = newFolder();
    const { status, stdout, stderr } = run(command, args, {
      ...(command === "restore" ? { STATE_DIR: target } : {}),
      ...env,
    });
    expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
    expect(stderr).toMatch(message);
    expect(existsSync(target)).toBe(false);
  });
});
