/** The command line. `demo [file.csv]` shows the whole path from labelled texts to predictions (src/cli/demo.ts). */
import { runDemo } from "./cli/demo.ts";
import { exitWithError, UsageError } from "./lib/usage-error.ts";
import { GraftError } from "./sdk/client.ts";

const usage = `Usage: npm run demo [-- file.csv]

  file.csv  labelled texts with the columns 'text' and 'label'; without it, examples/support-tickets.csv`;

const [command, ...args] = process.argv.slice(2);
if (command === "--help" || command === "-h" || args.includes("--help")) console.log(usage);
else if (command !== "demo" || args.length > 1) exitWithError(new UsageError(usage));
else
  await runDemo(args[0]).catch((error) =>
    exitWithError(error instanceof GraftError ? new UsageError(error.message) : error),
  );
