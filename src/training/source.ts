/** What a training reads: a stored data set, or examples sent with the request. */

import type { DatasetModality } from "../api/datasets.ts";
import type { StoredExample } from "../api/examples.ts";
import type { Backbone } from "../backbones/backbone.ts";
import { CHARACTERS_PER_CHUNK, costFactor, embedInChunks, type YieldToEventLoop } from "../backbones/chunks.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import type { Task } from "../core/head.ts";
import { encodeTargets, type Target, type TargetSet } from "../core/linear/targets.ts";
import { toHex } from "../lib/hash.ts";
import { BLOCK_ROWS, matchesHash } from "../store/blocks.ts";
import { type GatherBlocksParams, gatherBlocks } from "../store/gather.ts";
import type { TrainingRows } from "../tenant/data/training-sets.ts";
import type { Ledger } from "../tenant/tenant.ts";

type BlockHandler = (block: number, values: Float32Array) => void;

/** What a training reads, whichever way it came. */
export interface TrainingSource {
  readonly task: Task;
  readonly modality: DatasetModality;
  readonly dimensions: number;
  readonly examples: number;
  /** Text that a local backbone may have to embed, in bytes of UTF-8, times its effort. */
  readonly textBytes: number;
  readonly groups: Int32Array;
  readonly targets: TargetSet;
  /**
   * Asks a remote backbone, which may take minutes, for what no cache has, so that `features` finds all of it; null where
   * no backbone is remote.
   */
  readonly prepare: ((yieldToEventLoop: YieldToEventLoop) => Promise<Result<{ embedded: number }>>) | null;
  /** Every row's text; null where the inputs are no texts. */
  readonly texts: TextSource | null;
  /** Gathers the embeddings as blocks (rows × dimensions each), in any order; the blocks' numbers rise with the rows. */
  readonly gatherFeatures: (
    deliver: BlockHandler,
    yieldToEventLoop: YieldToEventLoop,
  ) => Promise<Result<{ embedded: number }>>;
}

/** Takes a text; answers whether it wants more of them. */
type TextVisitor = (text: string) => boolean;

interface TextSource {
  /** Of UTF-8. */
  readonly bytes: number;
  /** Shows the texts in order, until no more are wanted, with a turn for others before each stretch. */
  readonly forEachText: (visit: TextVisitor, yieldToEventLoop: YieldToEventLoop) => Promise<Result<null>>;
}

function parseTargets(targets: readonly string[]): Target[] {
  return targets.map((json) => JSON.parse(json) as Target);
}

/** A stored data set as the source of a training. */
export function createDatasetSource(
  kv: KVNamespace,
  tenantId: string,
  tenantLedger: Ledger,
  rows: TrainingRows,
  backbone: Backbone | null,
): TrainingSource {
  const { dataset } = rows;
  const blocks = new Map(rows.blocks);
  const retainedBlocks = new Map<number, Float32Array>();
  const readInputs = async (positions: readonly number[]) => {
    const read = await tenantLedger.readInputs(dataset.id, positions);
    return read.ok ? read.value : positions.map(() => null);
  };
  const gather = async (
    backbone: Backbone,
    onBlock: GatherBlocksParams["onBlock"],
    yieldToEventLoop: YieldToEventLoop,
  ) => {
    const recordBlock = async (block: number, key: string) => {
      blocks.set(block, key);
      await tenantLedger.recordBlocks(dataset.id, `${backbone.id}@${backbone.revision}`, new Map([[block, key]]));
    };
    const work = { kv, tenant: tenantId, backbone, rows: { ...rows, blocks }, readInputs, retainedBlocks };
    const done = await gatherBlocks({ ...work, yieldToEventLoop, onBlock, recordBlock });
    return done.failure === null ? ok({ embedded: done.embedded }) : { ok: false as const, failure: done.failure };
  };
  return {
    task: dataset.task,
    modality: dataset.modality,
    dimensions: backbone?.dimensions ?? dataset.dimensions ?? 0,
    examples: rows.positions.length,
    textBytes: backbone?.cost === "local" ? rows.inputBytes * costFactor(backbone) : 0,
    groups: rows.groups,
    targets: encodeTargets(dataset.task, parseTargets(rows.targets), dataset.out_of_scope_label),
    prepare:
      backbone?.cost === "remote"
        ? (yieldToEventLoop) =>
            gather(
              backbone,
              (block, values, stored) => void (stored || retainedBlocks.set(block, values)),
              yieldToEventLoop,
            )
        : null,
    texts:
      backbone === null
        ? null
        : {
            bytes: rows.inputBytes,
            forEachText: (visit, yieldToEventLoop) => visitStoredTexts(rows, readInputs, visit, yieldToEventLoop),
          },
    gatherFeatures: async (deliver, yieldToEventLoop) => {
      if (backbone === null)
        return gatherOwnEmbeddings(rows, dataset.dimensions ?? 0, readInputs, deliver, yieldToEventLoop);
      const deliverAndRelease: BlockHandler = (block, values) => {
        retainedBlocks.delete(block);
        deliver(block, values);
      };
      return gather(backbone, deliverAndRelease, yieldToEventLoop);
    },
  };
}

const datasetChanged = fail("dataset_changed", "The dataset was changed while it was read. Train again.", {
  retryAfter: 1,
});

/** Shows the texts of a stored data set, of which the ledger answers some at a time. */
async function visitStoredTexts(
  rows: TrainingRows,
  readInputs: (positions: readonly number[]) => Promise<readonly (string | Uint8Array | null)[]>,
  visit: TextVisitor,
  yieldToEventLoop: YieldToEventLoop,
): Promise<Result<null>> {
  for (let start = 0; start < rows.positions.length; ) {
    const inputs = await readInputs(Array.from(rows.positions.subarray(start, start + BLOCK_ROWS)));
    const texts = inputs.filter((input) => typeof input === "string");
    if (
      texts.length === 0 ||
      texts.length < inputs.length ||
      texts.some((text, i) => !matchesHash(text, rows.inputHashes, start + i))
    )
      return datasetChanged;
    const visitResult = await visitTexts(texts, visit, yieldToEventLoop);
    if (!visitResult.ok) return visitResult;
    if (!visitResult.value) break;
    start += inputs.length;
  }
  return ok(null);
}

/** Shows texts, with a turn before each stretch of them; answers whether more are wanted. */
async function visitTexts(
  texts: readonly string[],
  visit: TextVisitor,
  yieldToEventLoop: YieldToEventLoop,
): Promise<Result<boolean>> {
  let charactersLeft = 0;
  for (const text of texts) {
    if (charactersLeft <= 0) {
      const failure = await yieldToEventLoop();
      if (failure !== null) return { ok: false, failure };
      charactersLeft = CHARACTERS_PER_CHUNK;
    }
    if (!visit(text)) return ok(false);
    charactersLeft -= text.length;
  }
  return ok(true);
}

/** The caller's own embeddings need no backbone and no cache: they are the inputs. */
async function gatherOwnEmbeddings(
  rows: TrainingRows,
  dimensions: number,
  readInputs: (positions: readonly number[]) => Promise<readonly (string | Uint8Array | null)[]>,
  deliver: BlockHandler,
  yieldToEventLoop: YieldToEventLoop,
): Promise<Result<{ embedded: number }>> {
  for (let start = 0; start < rows.positions.length; ) {
    const failure = await yieldToEventLoop();
    if (failure !== null) return { ok: false, failure };
    const inputs = await readInputs(Array.from(rows.positions.subarray(start, start + BLOCK_ROWS)));
    const values = new Float32Array(inputs.length * dimensions);
    for (const [i, input] of inputs.entries()) {
      if (!(input instanceof Uint8Array) || !matchesHash(input, rows.inputHashes, start + i)) return datasetChanged;
      values.set(new Float32Array(input.slice().buffer), i * dimensions);
    }
    deliver(start, values);
    start += inputs.length;
  }
  return ok({ embedded: 0 });
}

/** Examples sent with the request as the source of a training. */
export function createInlineSource(
  task: Task,
  examples: readonly StoredExample[],
  backbone: Backbone | null,
  dimensions: number,
): TrainingSource {
  const groupNumbers = new Map<string, number>();
  const gather = async (
    deliver: BlockHandler,
    yieldToEventLoop: YieldToEventLoop,
  ): Promise<Result<{ embedded: number }>> => {
    for (let start = 0; start < examples.length; start += BLOCK_ROWS) {
      const inputs = examples.slice(start, start + BLOCK_ROWS).map(({ input }) => input);
      const values = new Float32Array(inputs.length * dimensions);
      if (backbone === null) {
        inputs.forEach((input, i) => {
          if (input instanceof Uint8Array) values.set(new Float32Array(input.slice().buffer), i * dimensions);
        });
      } else {
        const texts = inputs.filter((input) => typeof input === "string");
        const embedded = await embedInChunks(backbone, texts, yieldToEventLoop);
        if (embedded.failure !== null) return { ok: false, failure: embedded.failure };
        for (const [i, row] of embedded.rows.entries()) if (row) values.set(row, i * dimensions);
      }
      deliver(start, values);
    }
    return ok({ embedded: backbone === null ? 0 : examples.length });
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
      deliver(block, values);
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
    textBytes: backbone?.cost === "local" ? bytes * costFactor(backbone) : 0,
    groups: Int32Array.from(examples, ({ groupHash }) => {
      const key = toHex(groupHash);
      const number = groupNumbers.get(key) ?? groupNumbers.size;
      groupNumbers.set(key, number);
      return number;
    }),
    targets: encodeTargets(task, parseTargets(examples.map(({ target }) => target)), null),
    texts: backbone === null ? null : { bytes, forEachText },
    prepare: isRemote
      ? (yieldToEventLoop) => gather((block, values) => void retainedBlocks.set(block, values), yieldToEventLoop)
      : null,
    gatherFeatures: isRemote ? deliverRetained : gather,
  };
}
