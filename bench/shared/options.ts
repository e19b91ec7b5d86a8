/** The options of `npm run bench -- NAME`. Each measurement reads those that it knows. */
import { parseArgs } from "node:util";

export function readOptions() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      /** The report's file. */
      json: { type: "string" },
      /** The folder of labelled sets (text-datasets.ts). */
      data: { type: "string", default: "" },
      /** A pattern of the names of what is measured. */
      only: { type: "string", default: "" },
      kills: { type: "string", default: "200" },
      /** `N`, or `PATTERN=N` for the sets whose name matches: how many training rows of a set are used at most. */
      rows: { type: "string", default: "" },
      /** Reports what is stored, and measures nothing. */
      stored: { type: "boolean", default: false },
    },
  });
  return { ...values, positionals };
}

/** How many training rows of a set are used at most. */
export function readRowLimit(set: string): number {
  const { rows } = readOptions();
  if (rows === "") return Number.POSITIVE_INFINITY;
  const [, pattern = "", count] = /^(?:(.*)=)?(\d+)$/.exec(rows) ?? [];
  if (count === undefined) throw new Error(`--rows '${rows}' is neither a number nor PATTERN=NUMBER.`);
  return new RegExp(pattern).test(set) ? Number(count) : Number.POSITIVE_INFINITY;
}
