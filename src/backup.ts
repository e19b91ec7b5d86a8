/**
 * Backs up the state of a server on this machine, running or not, and restores it (docs/self-hosting.md). `npm run backup`
 * and `npm run restore` run it, with STATE_DIR as of `npm start`, and BACKUP_PASSPHRASE where nobody can be asked.
 */
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { exitWithError, UsageError } from "./lib/usage-error.ts";
import { backUp } from "./server/backup/backup.ts";
import type { Manifest } from "./server/backup/manifest.ts";
import { choosePassphrase, readPassphrase } from "./server/backup/passphrase.ts";
import { restore } from "./server/backup/restore.ts";
import { readStateDir } from "./server/settings.ts";

const usage = `Usage: npm run backup -- [--plain] FILE    writes the state in STATE_DIR to FILE
       npm run restore -- FILE             makes an empty STATE_DIR from FILE

  --plain  does not encrypt the backup, which holds the server's key and all data`;

function describe({ files, created_at }: Manifest): string {
  const megabytes = files.reduce((sum, { bytes }) => sum + bytes, 0) / 1e6;
  return `${files.length} files, ${megabytes.toFixed(1)} MB, as of ${created_at}`;
}

function readArguments() {
  try {
    return parseArgs({ allowPositionals: true, options: { plain: { type: "boolean" }, help: { type: "boolean" } } });
  } catch {
    throw new UsageError(usage);
  }
}

async function main(): Promise<void> {
  process.umask(0o077);
  const { env } = process;
  const { values, positionals } = readArguments();
  const [command, name, ...more] = positionals;
  if (values.help) return console.log(usage);
  if (name === undefined || more.length > 0) throw new UsageError(usage);
  const [stateDir, file] = [readStateDir(env), resolve(name)];
  if (command === "backup") {
    const passphrase = values.plain ? null : await choosePassphrase(env);
    console.log(`Backed up ${stateDir}: ${describe(await backUp({ stateDir, file, passphrase }))}.`);
  } else if (command === "restore" && !values.plain) {
    const manifest = await restore({ stateDir, file, getPassphrase: () => readPassphrase(env) });
    console.log(`Restored ${stateDir}: ${describe(manifest)}.`);
  } else throw new UsageError(usage);
}

await main().catch(exitWithError);
