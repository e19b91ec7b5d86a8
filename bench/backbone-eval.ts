/**
 * Test accuracy of heads on a newly trained table, in Node and without the service:
 *
 *   npm run backbone:eval -- --data DIR [--model DIR]
 *
 * For each labelled set (shared/text-datasets.ts): on embeddings alone, and with lexical features.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { encode, readTable } from "../src/backbones/text-static.ts";
import { mean } from "../src/core/evaluation/metrics.ts";
import { testProbe, trainProbe } from "./shared/linear-probe.ts";
import { readTextDatasets } from "./shared/text-datasets.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "models/text-static-1" },
    data: { type: "string", default: "" },
  },
});
const vocabulary = readFileSync(join(values.model, "vocabulary.txt"), "utf8");
const table = readTable(vocabulary, readFileSync(join(values.model, "table.bin")));
const encoder = { dimensions: table.dimensions, encode: (text: string) => encode(table, text) };
const sets = readTextDatasets(values.data);
if (sets.length === 0) {
  console.error(`--data '${values.data}' has none of the sets of bench/shared/text-datasets.ts.`);
  process.exitCode = 1;
}
for (const { name, seenInPretraining, splits } of sets) {
  const meanAccuracies = [];
  for (const lexical of [false, true]) {
    const accuracies = [];
    for (const { train, test } of splits) {
      const probe = trainProbe(encoder, train, { lexical, seed: 1, evaluation: { method: "none" } });
      accuracies.push(testProbe(encoder, probe, test).accuracy);
    }
    meanAccuracies.push(mean(accuracies).toFixed(4));
  }
  console.log(`${name.padEnd(28)}${meanAccuracies.join("  ")}${seenInPretraining ? "  seen in pre-training" : ""}`);
}
