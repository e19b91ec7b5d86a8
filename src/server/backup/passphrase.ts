/** The passphrase of a backup: from the environment, or from whoever sits at the terminal. */
import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { UsageError } from "../../lib/usage-error.ts";

/** A passphrase can be guessed for as long as a backup lies somewhere. */
const MIN_LENGTH = 12;

/** The passphrase of a new backup, asked for twice. Throws a UsageError if there is none, or if it is too short. */
export async function choosePassphrase(env: NodeJS.ProcessEnv): Promise<string> {
  const passphrase = await readPassphrase(env);
  if (passphrase.length < MIN_LENGTH)
    throw new UsageError(`The passphrase has ${passphrase.length} characters, and needs at least ${MIN_LENGTH}.`);
  if (!env.BACKUP_PASSPHRASE && (await ask("Once more: ")) !== passphrase)
    throw new UsageError("The two passphrases differ.");
  return passphrase;
}

/** Throws a UsageError if the passphrase is not in the environment and there is no terminal to ask at. */
export async function readPassphrase({ BACKUP_PASSPHRASE }: NodeJS.ProcessEnv): Promise<string> {
  if (BACKUP_PASSPHRASE) return BACKUP_PASSPHRASE;
  if (process.stdin.isTTY) return ask("Passphrase: ");
  throw new UsageError("Set BACKUP_PASSPHRASE, or run this at a terminal, which asks for the passphrase.");
}

/** Asks without showing what is typed. */
async function ask(prompt: string): Promise<string> {
  process.stderr.write(prompt);
  const output = new Writable({ write: (_chunk, _encoding, done) => done() });
  const terminal = createInterface({ input: process.stdin, output, terminal: true });
  terminal.once("SIGINT", () => process.exit(130));
  const answer = await terminal.question("");
  terminal.close();
  process.stderr.write("\n");
  return answer;
}
