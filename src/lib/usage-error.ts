/** An error in what the user gave: a setting, an argument or a file. Its message is one line that says what to change. */
export class UsageError extends Error {}

/** Prints an error and ends the process with exit code 1. Only a usage error is printed without its stack. */
export function exitWithError(error: unknown): never {
  console.error(error instanceof UsageError ? error.message : error);
  process.exit(1);
}
