/**
 * How well heads do on a trained table, in Node and without the service around it, right after a training:
 *
 *   npm run backbone:eval -- --data DIR [--model DIR]
 *
 * Test accuracy on each labelled set (text-datasets.ts): on embeddings alone, and with lexical features beside them.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { encode, readTable } from "../src/backbones/text-static.ts";
import { mean } from "../src/core/evaluation/metrics.ts";
import { linearProbeAccuracy } from "./linear-probe.ts";
import { readTextDatasets } from "./text-datasets.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "models/text-static-1" },
    data: { type: "string", default: "" },
  },
});
const vocabulary = readFileSync(join(values.model, "vocabulary.txt"), "utf8");
const table = readTable(vocabulary, readFileSync(join(values.model, "table.bin")));
const sets = readTextDatasets(values.data);
if (sets.length === 0) {
  console.error(`--data '${values.data}' has none of the sets of bench/text-datasets.ts.`);
  process.exitCode = 1;
}
for (const { name, seenInPretraining, splits } of sets) {
  const meanAccuracies = [];
  for (const lexical of [false, true]) {
    const accuracies = [];
    for (const split of splits)
      accuracies.push(await linearProbeAccuracy((text) => encode(table, text), table.dimensions, split, lexical));
    meanAccuracies.push(mean(accuracies).toFixed(4));
  }
  console.log(
    `${name.padEnd(28)}${meanAccuracies.join("  ")}${seenInPretraining ? "  seenInPretraining in pre-training" : ""}`,
  );
}
