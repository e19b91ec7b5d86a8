/** Explanations of predictions, as the API shows them. */
import type { Explanation } from "../api/explanations.ts";
import type { Backbone } from "../backbones/backbone.ts";
import { type EmbeddedInput, explainInputs, type InputExplanation } from "../backbones/explain.ts";
import type { Parts } from "../core/explanation.ts";
import { ok, type Result } from "../core/failure.ts";
import type { Head } from "../core/head.ts";

/** One explanation per input, in their order. */
export async function explainPredictions(
  head: Head,
  backbone: Backbone | null,
  inputs: readonly EmbeddedInput[],
): Promise<Result<Explanation[]>> {
  const explained = await explainInputs(head, backbone, inputs, async () => {
    await scheduler.wait(0);
    return null;
  });
  if (!explained.ok) return explained;
  return ok(explained.value.map((explanation) => ({ ...toObject(head, explanation), nearest: [] })));
}

function toObject(
  { labels }: Head,
  { outputs, logits, terms, intercept, otherTerms, unexplained }: InputExplanation,
): Omit<Explanation, "nearest"> {
  const [label, runnerUp] = outputs.map((k) => labels[k]);
  const withRunnerUp = (parts: Parts) => ({
    weight: parts[0] ?? 0,
    ...(runnerUp === undefined ? {} : { against: parts[1] ?? 0 }),
  });
  const bias = withRunnerUp(
    logits.map((_, o) => (intercept[o] as number) + (otherTerms[o] as number) + (unexplained[o] as number)),
  );
  return {
    ...(label === undefined ? {} : { label }),
    ...(runnerUp === undefined ? {} : { runner_up: runnerUp }),
    logit: withRunnerUp(logits),
    terms: terms.map(({ text, parts }) => ({ text, ...withRunnerUp(parts) })),
    bias: bias.weight,
    ...(bias.against === undefined ? {} : { bias_against: bias.against }),
    bias_parts: {
      intercept: withRunnerUp(intercept),
      other_terms: withRunnerUp(otherTerms),
      unexplained: withRunnerUp(unexplained),
    },
  };
}
