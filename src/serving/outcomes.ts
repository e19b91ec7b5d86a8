/** How heads do on labelled examples that they have not learnt yet. */
import type { Context } from "hono";
import type { Task } from "../core/head.ts";
import type { StoredExample } from "../tenant/data/examples.ts";
import type { Hit } from "../tenant/heads/learning.ts";
import { servedHead } from "./active-heads.ts";
import type { HttpEnv } from "../http/context.ts";
import { type Input, type Prediction, predictInputs } from "../http/routes/predict.ts";

/**
 * For each example whether the head's version (the active one, where none is given) predicts it right; none where it has
 * no label that the head could predict, for regression, and where the head cannot predict now: learning needs no prediction.
 */
export async function hitsOf(
  c: Context<HttpEnv>,
  head: string,
  version: number | null,
  examples: readonly StoredExample[],
  outOfScope: string | null,
): Promise<(Hit | null)[]> {
  const none = examples.map(() => null);
  const served = examples.length === 0 ? null : await servedHead(c.env, c.var.caller.tenant, head, version);
  if (!served?.ok || served.value.task === "regression") return none;
  const { value } = served;
  const predicted = await predictInputs(c, value, examples.map(toInput), (index) => `examples[${index}]`);
  if (!predicted.ok) return none;
  return examples.map(({ target }, i) => {
    const hit = isHit(value.task, JSON.parse(target), predicted.value[i], outOfScope);
    return hit === null ? null : { head, version: value.version, hit };
  });
}

function toInput({ input }: StoredExample): Input {
  return typeof input === "string"
    ? { text: input }
    : { embedding: Array.from(new Float32Array(input.slice().buffer)) };
}

function isHit(
  task: Task,
  target: string | readonly string[],
  predicted: Prediction | undefined,
  outOfScope: string | null,
): boolean | null {
  if (predicted === undefined) return null;
  // As in an evaluation, what belongs to no label does not count.
  if (task === "single_label") return target === outOfScope ? null : predicted.label === target;
  const labels = [...(predicted.labels ?? [])].sort();
  return labels.length === target.length && labels.every((label, i) => label === target[i]);
}
