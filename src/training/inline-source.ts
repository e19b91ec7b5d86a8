/** Examples sent with the request as the source of a training. */
import type { StoredExample } from "../api/examples.ts";
import type { Backbone } from "../backbones/backbone.ts";
import { embeddingWork, embedInChunks, type YieldToEventLoop } from "../backbones/chunks.ts";
import { roundRows } from "../core/block.ts";
import { ok, type Result } from "../core/failure.ts";
import type { Task } from "../core/head.ts";
import { encodeTargets } from "../core/linear/targets.ts";
import { visibleText } from "../core/text/visible.ts";
import { toHex } from "../lib/hash.ts";
import { BLOCK_ROWS, blockPrecision } from "../store/blocks.ts";
import { type BlockHandler, parseTargets, type TextVisitor, type TrainingSource, visitTexts } from "./source.ts";

/** 6 MB of embeddings by text-use-1. */
const MAX_CACHED_ROWS = 2 * BLOCK_ROWS;

/** @param labelTexts so many of the last examples are texts of labels */
export function createInlineSource(
  task: Task,
  examples: readonly StoredExample[],
  backbone: Backbone | null,
  dimensions: number,
  labelTexts = 0,
): TrainingSource {
  const groupNumbers = new Map<string, number>();
  // Of few examples, embeddings that take long are cached for the training that follows a comparison.
  const cachesBlocks = backbone?.cost === "local_cached" && examples.length <= MAX_CACHED_ROWS;
  const cachedBlocks = new Map<number, Float32Array>();
  const gather: TrainingSource["gatherFeatures"] = async (deliver, yieldToEventLoop) => {
    for (const [block, values] of cachedBlocks) await deliver(block, values);
    if (cachedBlocks.size > 0) return ok({ embedded: 0 });
    const deliverAndCache: BlockHandler = (block, values) => {
      if (cachesBlocks) cachedBlocks.set(block, values);
      return deliver(block, values);
    };
    return gatherInline({ examples, backbone, dimensions }, deliverAndCache, yieldToEventLoop);
  };
  const forEachText = async (visit: TextVisitor, yieldToEventLoop: YieldToEventLoop): Promise<Result<null>> => {
    const texts = examples.map(({ input }) => input).filter((input) => typeof input === "string");
    const visitResult = await visitTexts(texts, visit, yieldToEventLoop);
    return visitResult.ok ? ok(null) : visitResult;
  };
  const retainedBlocks = new Map<number, Float32Array>();
  const deliverRetained = async (deliver: BlockHandler) => {
    for (const [block, values] of retainedBlocks) {
      retainedBlocks.delete(block);
      await deliver(block, values);
    }
    return ok({ embedded: 0 });
  };
  const isRemote = backbone?.cost === "remote";
  const bytes = backbone === null ? 0 : examples.reduce((sum, { input }) => sum + Buffer.byteLength(input), 0);
  return {
    task,
    modality: backbone === null ? "embedding" : "text",
    dimensions,
    examples: examples.length,
    textBytes: embeddingWork(backbone, bytes, examples.length),
    groups: Int32Array.from(examples, ({ groupHash }) => {
      const key = toHex(groupHash);
      const number = groupNumbers.get(key) ?? groupNumbers.size;
      groupNumbers.set(key, number);
      return number;
    }),
    targets: encodeTargets(task, parseTargets(examples.map(({ target }) => target)), null),
    labelTexts,
    texts: backbone === null ? null : { bytes, forEachText },
    prepare: isRemote
      ? (yieldToEventLoop) => gather((block, values) => void retainedBlocks.set(block, values), yieldToEventLoop)
      : null,
    gatherFeatures: isRemote ? deliverRetained : gather,
  };
}

interface InlineExamples {
  readonly examples: readonly StoredExample[];
  readonly backbone: Backbone | null;
  readonly dimensions: number;
}

/** Embeds the examples, or takes the caller's own embeddings, a block of rows at a time. */
async function gatherInline(
  { examples, backbone, dimensions }: InlineExamples,
  deliver: BlockHandler,
  yieldToEventLoop: YieldToEventLoop,
): Promise<Result<{ embedded: number }>> {
  for (let start = 0; start < examples.length; start += BLOCK_ROWS) {
    const inputs = examples.slice(start, start + BLOCK_ROWS).map(({ input }) => input);
    const values = new Float32Array(inputs.length * dimensions);
    if (backbone === null) {
      inputs.forEach((input, i) => {
        if (input instanceof Uint8Array) values.set(new Float32Array(input.slice().buffer), i * dimensions);
      });
    } else {
      const texts = inputs.filter((input) => typeof input === "string").map(visibleText);
      const embedded = await embedInChunks(backbone, texts, yieldToEventLoop);
      if (embedded.failure !== null) return { ok: false, failure: embedded.failure };
      for (const [i, row] of embedded.rows.entries()) if (row) values.set(row, i * dimensions);
      // As a stored dataset has them.
      if (blockPrecision(backbone) === "int8") roundRows(values, dimensions);
    }
    await deliver(start, values);
  }
  return ok({ embedded: backbone === null ? 0 : examples.length });
}
