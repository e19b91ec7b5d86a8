/** A backbone on Cloudflare's Workers AI. Rows stay as the model returns them. */
import { z } from "zod";
import type { Backbone, Identity } from "./backbone.ts";
import {
  type CallResult,
  callFailure,
  type RemoteOptions,
  type RetryIo,
  remoteBackbone,
  validateRow,
} from "./remote.ts";

/** The part of the `AI` binding that is used. */
export interface AiBinding {
  run(model: string, input: { text: string[]; pooling?: "mean" | "cls" }): Promise<unknown>;
}

export interface WorkersAiOptions extends RemoteOptions {
  readonly pooling: "mean" | "cls" | undefined;
}

/** A model of the bge family takes at most so many texts in a call. */
export const MAX_BATCH_SIZE = 100;

const responseSchema = z.object({ data: z.array(z.array(z.number())) });

export function workersAiBackbone(
  identity: Identity,
  options: WorkersAiOptions,
  ai: AiBinding,
  io?: RetryIo,
): Backbone {
  return remoteBackbone("workers_ai", identity, options, (batch) => request(batch, options, ai), io);
}

async function request(batch: readonly string[], options: WorkersAiOptions, ai: AiBinding): Promise<CallResult> {
  const { model, dimensions, pooling } = options;
  let answer: unknown;
  try {
    answer = await ai.run(model, { text: [...batch], ...(pooling === undefined ? {} : { pooling }) });
  } catch (error) {
    return errorFailure(error);
  }
  const invalid = (what: string) => callFailure("backend_invalid_answer", `Workers AI's answer ${what}.`);
  const parsed = responseSchema.safeParse(answer);
  if (!parsed.success)
    return invalid(`is not an embedding's, at ${parsed.error.issues[0]?.path.join(".") || "its top"}`);
  const { data } = parsed.data;
  if (data.length !== batch.length) return invalid(`has ${data.length} embeddings for ${batch.length} inputs`);
  const rows: Float32Array[] = [];
  for (const [index, values] of data.entries()) {
    const row = validateRow(values, dimensions);
    if (row === null) return invalid(`has at index ${index} not ${dimensions} finite numbers`);
    rows.push(row);
  }
  return { ok: true, rows };
}

/**
 * The binding's errors begin with an internal code of Workers AI, such as "3040: …"
 * (https://developers.cloudflare.com/workers-ai/platform/errors/). An error without a known code may be the network's.
 */
function errorFailure(error: unknown): CallResult {
  const code = Number(/^(?:\w*Error: )?(\d{4}):/.exec(String(error instanceof Error ? error.message : error))?.[1]);
  switch (code) {
    case 3036:
      return callFailure("backend_rate_limited", "The account's Workers AI allocation for today is used up (3036).");
    case 3040:
      return callFailure("backend_rate_limited", "Workers AI is out of capacity (3040).", { retry: true });
    case 3007:
    case 3008:
      return callFailure("backend_timeout", `Workers AI gave up (${code}).`, { retry: true });
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
      return callFailure("backend_rejected", `Workers AI refused the request (${code}).`);
    default:
      return callFailure("backend_unavailable", "Workers AI could not be reached, or failed.", { retry: true });
  }
}
