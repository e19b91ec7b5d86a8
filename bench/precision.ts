/**
 * Heads on rows of 8 bits against heads on 32-bit floats: test accuracy on the embeddings of text-use-1, in Node.
 *
 *   npm run bench -- precision --data DIR      DIR has hwu64 and clinc150_full
 */
import { textUse } from "../src/backbones/node.ts";
import { embedTexts, testProbe, trainProbe } from "./shared/linear-probe.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { readRequestedDatasets } from "./shared/text-datasets.ts";

const MAX_DIFFERENCE = 0.001;
const options = { lexical: false, seed: 0, evaluation: { method: "holdout" } } as const;

export async function run(): Promise<Row[]> {
  const rows: Row[] = [];
  for (const { name, splits } of readRequestedDatasets(/^(hwu64 full|clinc150_full)$/)) {
    const { train = [], test = [] } = splits[0] ?? {};
    const encoder = await embedTexts(textUse, [...train, ...test]);
    const accuracyWith = (precision: "float32" | "int8") =>
      testProbe(encoder, trainProbe(encoder, train, options, precision), test).accuracy;
    const exact = accuracyWith("float32");
    const value = accuracyWith("int8");
    const target = { target: `within ${MAX_DIFFERENCE}`, met: Math.abs(value - exact) <= MAX_DIFFERENCE };
    const peer = { peer: "32-bit floats", peer_value: exact };
    rows.push(makeRow({ case: name, measure: "accuracy, rows of 8 bits", value, ...peer, ...target }));
  }
  return rows;
}
