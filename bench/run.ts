/**
 * `npm run bench -- NAME [--json FILE] [--data DIR] [--only PART] [--kills N]`: runs bench/NAME.ts, prints its table and
 * writes its report.
 */
import { parseArgs } from "node:util";
import { type Bench, printTable, writeReport } from "./shared/report.ts";

// Measurements parse --data, --only and --kills themselves.
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { json: { type: "string" }, data: { type: "string" }, only: { type: "string" }, kills: { type: "string" } },
});
const [name = ""] = positionals;
const names = [
  "ahead",
  "backbone",
  "chaos",
  "encode",
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
  console.error(`usage: npm run bench -- NAME [--json FILE] [--data DIR], where NAME is one of ${names.join(", ")}`);
  process.exit(2);
}
const { run, runs = 1 } = (await import(`./${name}.ts`)) as Bench;
const rows = await run();
printTable(rows);
if (values.json !== undefined) writeReport(values.json, name, runs, rows);
