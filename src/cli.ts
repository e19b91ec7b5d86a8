/** The command line. `demo [FILE]` shows the whole path from labelled texts to predictions (src/cli/demo.ts). */
import { parseArgs } from "node:util";
import { type ImportOptions, runDemo } from "./cli/demo.ts";
import { exitWithError, UsageError } from "./lib/usage-error.ts";
import { GraftError } from "./sdk/client.ts";

const usage = `Usage: npm run demo [-- FILE [--text COLUMN] [--label COLUMN] …]

  FILE  labelled texts: a CSV, NDJSON, JSON or the file of a labelling tool (docs/importing.md);
        without it, examples/support-tickets.csv

  How a file is read is found out. These say otherwise:
  --text, --label, --id              a column's name, its position from 1, or a JSON Pointer
  --format, --delimiter, --encoding  such as csv, semicolon and windows-1252
  --label_names                      what the labels 0, 1, 2 … are called: no|yes
  --truncate                         cuts texts that are too long

  Without FILE, a head is compared with fine-tuning on two sets as well, which takes a minute on two cores:
  --seconds                          what each set may take of one core, by estimate; fewer leave samples out

The Worker is built each time, unless BUNDLE_DIR names one that \`npm run build\` has built.`;

const column = { type: "string" } as const;
const options = {
  help: { type: "boolean", short: "h" },
  truncate: { type: "boolean" },
  text: column,
  label: column,
  id: column,
  format: column,
  delimiter: column,
  encoding: column,
  label_names: column,
  seconds: { type: "string" },
} as const;

function parseCommandLine() {
  try {
    return parseArgs({ args: process.argv.slice(2), options, allowPositionals: true });
  } catch (error) {
    return exitWithError(new UsageError(`${error instanceof Error ? error.message : error}\n\n${usage}`));
  }
}

const { positionals, values } = parseCommandLine();
const [command, file, ...more] = positionals;
const { help, seconds, ...importOptions } = values;
if (help) console.log(usage);
else if (command !== "demo" || more.length > 0 || !(Number(seconds ?? 1) > 0)) exitWithError(new UsageError(usage));
else
  await runDemo(file, importOptions as ImportOptions, seconds === undefined ? undefined : Number(seconds)).catch(
    (error) => exitWithError(error instanceof GraftError ? new UsageError(error.message) : error),
  );
