/** `npm run bench -- NAME [--json FILE]`: runs bench/NAME.ts, prints its table and writes its report. */
import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { type Bench, printTable, writeReport } from "./report.ts";

const { values, positionals } = parseArgs({ allowPositionals: true, options: { json: { type: "string" } } });
const [name = ""] = positionals;
const file = `${import.meta.dirname}/${name}.ts`;
if (!/^[a-z]+$/.test(name) || ["run", "report"].includes(name) || !existsSync(file)) {
  console.error("usage: npm run bench -- NAME [--json FILE], where bench/NAME.ts is a benchmark");
  process.exit(2);
}
const { run, runs = 1 } = (await import(file)) as Bench;
const rows = await run();
printTable(rows);
if (values.json !== undefined) writeReport(values.json, name, runs, rows);
