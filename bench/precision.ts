/**
 * Heads on rows of 8 bits against heads on 32-bit floats: test accuracy on the embeddings of text-use-1, in Node.
 *
 *   npm run bench -- precision --data DIR      DIR has hwu64 and clinc150_full
 */
import { parseArgs } from "node:util";
import { textUse } from "../src/backbones/node.ts";
import { testProbe, trainProbe } from "./shared/linear-probe.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { readTextDatasets } from "./shared/text-datasets.ts";

const MAX_DIFFERENCE = 0.001;
const BATCH = 100;
const options = { lexical: false, seed: 0, evaluation: { method: "holdout" } } as const;

export async function run(): Promise<Row[]> {
  const { values } = parseArgs({
    allowPositionals: true,
    options: { data: { type: "string", default: "" }, json: { type: "string" } },
  });
  const sets = readTextDatasets(values.data, /^(hwu64 full|clinc150_full)$/);
  if (sets.length === 0) throw new Error(`--data '${values.data}' has neither hwu64 nor clinc150_full.`);
  const rows: Row[] = [];
  for (const { name, splits } of sets) {
    const { train = [], test = [] } = splits[0] ?? {};
    const embeddings = await embedAll([...train, ...test].map(({ text }) => text));
    const encoder = {
      dimensions: textUse.dimensions,
      encode: (text: string) => embeddings.get(text) ?? new Float32Array(textUse.dimensions),
    };
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

async function embedAll(texts: readonly string[]): Promise<Map<string, Float32Array>> {
  const embeddings = new Map<string, Float32Array>();
  for (let first = 0; first < texts.length; first += BATCH) {
    const batch = texts.slice(first, first + BATCH);
    const { rows } = await textUse.embed(batch);
    for (const [i, row] of rows.entries()) if (row) embeddings.set(batch[i] ?? "", row);
  }
  return embeddings;
}
