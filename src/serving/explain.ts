/** Explanations of predictions, as the API shows them. */
import type { Explanation } from "../api/explanations.ts";
import type { Backbone } from "../backbones/backbone.ts";
import { type EmbeddedInput, explainInputs, type InputExplanation } from "../backbones/explain.ts";
import type { Parts } from "../core/explanation.ts";
import { ok, type Result } from "../core/failure.ts";
import { type Head, targetField } from "../core/head.ts";
import { findNearest } from "../core/sketch.ts";
import { getSketch } from "../store/heads.ts";
import type { ServedHead } from "../tenant/heads/served-heads.ts";
import { getLedger } from "../tenant/tenant.ts";
import type { TenantRequest } from "./tenant-request.ts";

/** Examples that an explanation shows, and those that are looked up for it: some may have been deleted. */
const MAX_NEAREST = 5;
const MAX_CANDIDATES = 8;

/**
 * One explanation per input, in their order.
 *
 * @param showsExamples whether the caller may see training examples
 */
export async function explainPredictions(
  { env, tenant }: TenantRequest,
  served: ServedHead,
  { head, backbone }: { readonly head: Head; readonly backbone: Backbone | null },
  inputs: readonly EmbeddedInput[],
  showsExamples: boolean,
): Promise<Result<Explanation[]>> {
  const explained = await explainInputs(head, backbone, inputs, async () => {
    await scheduler.wait(0);
    return null;
  });
  if (!explained.ok) return explained;
  const nearest = showsExamples ? await findNearestExamples(env, tenant, served, inputs) : [];
  return ok(explained.value.map((explanation, i) => ({ ...toObject(head, explanation), nearest: nearest[i] ?? [] })));
}

type NearestExample = Explanation["nearest"][number];

/** The training examples that each input is most like. None if they cannot be read: the rest of an explanation stands. */
async function findNearestExamples(
  env: Cloudflare.Env,
  tenant: string,
  served: ServedHead,
  inputs: readonly EmbeddedInput[],
): Promise<NearestExample[][]> {
  const sketch = await getSketch(env.KV, env.BUCKET, tenant, served.sha256);
  const candidates = inputs.map(({ embedding }) => findNearest(sketch, embedding, MAX_CANDIDATES));
  const positions = candidates.flatMap((list) => list.map(({ position }) => position));
  if (positions.length === 0) return [];
  const { id, version, sha256 } = served;
  const examples = await getLedger(env.TENANT, tenant).readTrainedExamples({ id, version, sha256 }, positions);
  if (!examples.ok) return [];
  const field = targetField[served.task];
  return candidates.map((list) =>
    list
      .flatMap(({ position, similarity }) => {
        const example = examples.value.get(position);
        if (example === undefined) return [];
        const text = example.text === null ? {} : { text: example.text };
        return [{ id: example.id, ...text, [field]: JSON.parse(example.target), similarity }];
      })
      .slice(0, MAX_NEAREST),
  );
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
