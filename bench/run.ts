/**
 * `npm run bench -- NAME [--json FILE] [--data DIR] …`: runs bench/NAME.ts, prints its table and writes its report.
 * bench/shared/options.ts has all options.
 */
import { readOptions } from "./shared/options.ts";
import { type Bench, printTable, writeReport } from "./shared/report.ts";

const { positionals, json } = readOptions();
const [name = ""] = positionals;
const names = [
  "advice",
  "ahead",
  "backbone",
  "chaos",
  "encode",
  "evaluation",
  "few-shot",
  "finetune",
  "front",
  "import",
  "jobs",
  "memory",
  "neighbours",
  "precision",
  "predict",
  "train",
  "transfer",
  "typos",
  "webhooks",
];
if (!names.includes(name)) {
  console.error(
    `usage: npm run bench -- NAME [--json FILE] [--data DIR] [--only PATTERN], where NAME is one of ${names.join(", ")}`,
  );
  process.exit(2);
}
const { run, runs = 1 } = (await import(`./${name}.ts`)) as Bench;
const rows = await run();
printTable(rows);
if (json !== undefined) writeReport(json, name, runs, rows);
