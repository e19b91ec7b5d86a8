/** Text embeddings from Cloudflare's Workers AI. Rows are kept as the model gives them. */
import { z } from "zod";
import type { Backbone, Identity } from "./backbone.ts";
import {
  type Attempt,
  checkedRow,
  embedRemotely,
  failed,
  type Pace,
  platformPace,
  type RemoteOptions,
} from "./remote.ts";

/** What this needs of the `AI` binding. */
export interface AiBinding {
  run(model: string, input: { text: string[]; pooling?: "mean" | "cls" }): Promise<unknown>;
}

export interface WorkersAiOptions extends RemoteOptions {
  readonly model: string;
  readonly dimensions: number;
  readonly pooling: "mean" | "cls" | undefined;
}

/** The most texts that a model of the bge family takes in one call. */
export const LARGEST_BATCH = 100;

const answerSchema = z.object({ data: z.array(z.array(z.number())) });

export function workersAiBackbone(
  identity: Identity,
  options: WorkersAiOptions,
  ai: AiBinding,
  pace: Pace = platformPace,
): Backbone {
  return {
    ...identity,
    modality: "text",
    dimensions: options.dimensions,
    kind: "workers_ai",
    bytes: 0,
    cost: "remote",
    embed: (inputs) => embedRemotely(inputs, (batch) => request(batch, options, ai), options, pace),
  };
}

async function request(batch: readonly string[], options: WorkersAiOptions, ai: AiBinding): Promise<Attempt> {
  const { model, dimensions, pooling } = options;
  let answer: unknown;
  try {
    answer = await ai.run(model, { text: [...batch], ...(pooling === undefined ? {} : { pooling }) });
  } catch (error) {
    return refusal(error);
  }
  const invalid = (what: string) => failed("backend_invalid_answer", `Workers AI's answer ${what}.`);
  const parsed = answerSchema.safeParse(answer);
  if (!parsed.success)
    return invalid(`is not an embedding's, at ${parsed.error.issues[0]?.path.join(".") || "its top"}`);
  const { data } = parsed.data;
  if (data.length !== batch.length) return invalid(`has ${data.length} embeddings for ${batch.length} inputs`);
  const rows: Float32Array[] = [];
  for (const [index, values] of data.entries()) {
    const row = checkedRow(values, dimensions);
    if (row === null) return invalid(`has at index ${index} not ${dimensions} finite numbers`);
    rows.push(row);
  }
  return { ok: true, rows };
}

/**
 * The binding's errors begin with Workers AI's internal code, such as "3040: …"
 * (https://developers.cloudflare.com/workers-ai/platform/errors/). One without a known code may be the network's.
 */
function refusal(error: unknown): Attempt {
  const code = Number(/^(?:\w*Error: )?(\d{4}):/.exec(String(error instanceof Error ? error.message : error))?.[1]);
  switch (code) {
    case 3036:
      return failed("backend_rate_limited", "The account's Workers AI allocation for today is used up (3036).");
    case 3040:
      return failed("backend_rate_limited", "Workers AI is out of capacity (3040).", { retry: true });
    case 3007:
    case 3008:
      return failed("backend_timeout", `Workers AI gave up (${code}).`, { retry: true });
    case 3003:
    case 3006:
    case 3023:
    case 3041:
    case 3042:
    case 5004:
    case 5005:
    case 5006:
    case 5007:
    case 5016:
    case 5018:
    case 5019:
      return failed("backend_rejected", `Workers AI refused the request (${code}).`);
    default:
      return failed("backend_unavailable", "Workers AI could not be reached, or failed.", { retry: true });
  }
}
