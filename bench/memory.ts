/**
 * The memory of the largest trainings that a request may run: the WASM heap, and the live objects of JavaScript, measured
 * after garbage collections between steps. In Node, because workerd reports neither.
 *
 *   npm run bench -- memory
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { edgeBudget } from "../src/core/limits.ts";
import { train } from "../src/core/linear/train.ts";
import type { Matrix, TensorBackend } from "../src/core/tensors.ts";
import { nodeTensorBackend } from "../src/tensor/node.ts";
import { measureMemory } from "./shared/memory.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { makeClassification } from "./shared/synthetic.ts";

const SHAPES = [
  { rows: 10_000, dimensions: 384, classes: 64 },
  { rows: 15_000, dimensions: 384, classes: 150 },
] as const;
const BLOCK_ROWS = 1024;
const STEPS_PER_COLLECTION = 50;
const ISOLATE_MB = 128;

/** Uploads features in blocks, as a training in a request does. The copy in JavaScript becomes garbage. */
function upload(tensors: TensorBackend, shape: (typeof SHAPES)[number]): { features: Matrix[]; labels: Int32Array } {
  const { features, labels } = makeClassification(shape);
  const { rows, dimensions } = shape;
  const blocks: Matrix[] = [];
  for (let first = 0; first < rows; first += BLOCK_ROWS) {
    const height = Math.min(BLOCK_ROWS, rows - first);
    const values = features.subarray(first * dimensions, (first + height) * dimensions);
    blocks.push(tensors.matrix(height, dimensions, values));
  }
  return { features: blocks, labels };
}

export async function run(): Promise<Row[]> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const tensors = await nodeTensorBackend();
  const initialBytes = await measureMemory(collect);
  const rows: Row[] = [];
  for (const shape of SHAPES) {
    const { features, labels } = upload(tensors, shape);
    const steps = train(
      tensors,
      {
        task: "single_label",
        dimensions: shape.dimensions,
        labels: Array.from({ length: shape.classes }, (_, k) => String(k)),
        features,
        targets: { kind: "single", indices: labels },
        groups: Int32Array.from({ length: shape.rows }, (_, row) => row),
      },
      { l2: "auto", classWeight: null, seed: 1, evaluation: { method: "auto" }, budget: edgeBudget },
    );
    let liveBytes = 0;
    let count = 0;
    for (let step = steps.next(); !step.done; step = steps.next()) {
      if (++count % STEPS_PER_COLLECTION !== 0) continue;
      liveBytes = Math.max(liveBytes, (await measureMemory(collect)) - initialBytes);
    }
    const name = `${shape.rows} × ${shape.dimensions}, ${shape.classes} classes`;
    const row = { case: name, unit: "MB" };
    const wasmMegabytes = tensors.memory().bytes / 1e6;
    const totalMegabytes = wasmMegabytes + liveBytes / 1e6;
    rows.push(
      makeRow({ ...row, measure: "WASM heap", value: wasmMegabytes }),
      makeRow({ ...row, measure: "alive in JavaScript", value: liveBytes / 1e6 }),
      makeRow({
        ...row,
        measure: "both",
        value: totalMegabytes,
        target: `< ${ISOLATE_MB}`,
        met: totalMegabytes < ISOLATE_MB,
      }),
    );
  }
  return rows;
}
