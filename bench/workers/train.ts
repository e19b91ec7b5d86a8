/** The Worker that bench/train.ts measures. It holds one dataset and fits heads on it with the shipped training. */
import { edgeBudget } from "../../src/core/limits.ts";
import { train } from "../../src/core/linear/train.ts";
import type { TrainingOptions, TrainingResult } from "../../src/core/linear/types.ts";
import type { Matrix } from "../../src/core/tensors.ts";
import { workerdTensorBackend } from "../../src/tensor/workerd.ts";

// wrangler.toml binds these classes, and this Worker starts with the real one's configuration.
export class Tenant {}
export class Directory {}

const BLOCK_ROWS = 1024;

let features = new Float32Array(0);
let labels = new Int32Array(0);
let dimensions = 0;
let latest: TrainingResult | null = null;

export default {
  async fetch(request: Request): Promise<Response> {
    const url = new URL(request.url);
    const number = (name: string) => Number(url.searchParams.get(name));
    if (url.pathname === "/load") {
      const body = await request.arrayBuffer();
      dimensions = number("dimensions");
      features = new Float32Array(body, 0, number("rows") * dimensions);
      labels = new Int32Array(body, features.byteLength, number("rows"));
      return Response.json({});
    }
    if (url.pathname === "/fit") {
      const isEvaluated = url.searchParams.has("auto");
      return Response.json(
        await measure({
          l2: isEvaluated ? "auto" : 1 / number("c"),
          classWeight: null,
          seed: 1,
          evaluation: { method: isEvaluated ? "auto" : "none" },
          budget: edgeBudget,
        }),
      );
    }
    if (latest === null) return new Response(null, { status: 404 });
    return new Response(new Blob([latest.head.weights.slice(), latest.head.bias.slice()]));
  },
};

/** Times a training, from the embeddings in JavaScript's memory to the head. */
async function measure(options: TrainingOptions): Promise<unknown> {
  const tensors = await workerdTensorBackend();
  const classes = Math.max(...labels) + 1;
  const rows = labels.length;
  const start = performance.now();
  const blocks: Matrix[] = [];
  for (let first = 0; first < rows; first += BLOCK_ROWS) {
    const height = Math.min(BLOCK_ROWS, rows - first);
    blocks.push(
      tensors.matrix(height, dimensions, features.subarray(first * dimensions, (first + height) * dimensions)),
    );
  }
  const steps = train(
    tensors,
    {
      task: "single_label",
      dimensions,
      labels: Array.from({ length: classes }, (_, k) => String(k)),
      features: blocks,
      targets: { kind: "single", indices: labels },
      groups: Int32Array.from({ length: rows }, (_, row) => row),
    },
    options,
  );
  let longest = 0;
  let last = start;
  let step = steps.next();
  for (; !step.done; step = steps.next()) {
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
  }
  for (const block of blocks) tensors.free(block);
  const milliseconds = performance.now() - start;
  if (!step.value.ok) throw new Error(step.value.failure.message);
  latest = step.value.value;
  return {
    milliseconds,
    longest,
    bytes: tensors.memory().bytes,
    ...latest.training,
    accuracy: latest.evaluation.accuracy,
  };
}
