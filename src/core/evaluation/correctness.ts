import type { Targets } from "../linear/targets.ts";
import type { EvaluationResult } from "./evaluation.ts";
import { sigmoid } from "./probability.ts";
import { DEFAULT_THRESHOLD } from "./thresholds.ts";

/**
 * Whether a row's labels are predicted correctly, from the logits that begin at `start`: the largest one is its label's;
 * of any number of labels, exactly its labels have at least their thresholds. Null for a row that has no label to
 * predict, and for values.
 */
export function correctnessOf(
  targets: Targets,
  outputs: number,
  { temperature, thresholds }: Pick<EvaluationResult, "temperature" | "thresholds">,
): (row: number, logits: Float32Array, start: number) => boolean | null {
  if (targets.kind === "value") return () => null;
  if (targets.kind === "single") {
    return (row, logits, start) => {
      const target = targets.indices[row] as number;
      if (target < 0) return null;
      const logit = logits[start + target] as number;
      for (let k = 0; k < outputs; k++) {
        const other = logits[start + k] as number;
        if (other > logit || (other === logit && k < target)) return false;
      }
      return true;
    };
  }
  return (row, logits, start) => {
    const expected = new Set(targets.indices[row]);
    for (let k = 0; k < outputs; k++) {
      const probability = sigmoid((logits[start + k] as number) / temperature);
      if (probability >= (thresholds[k] ?? DEFAULT_THRESHOLD) !== expected.has(k)) return false;
    }
    return true;
  };
}
