/** What a training reads, from a stored dataset (dataset-source.ts) or from the request itself (inline-source.ts). */
import type { DatasetModality } from "../api/datasets.ts";
import type { YieldToEventLoop } from "../backbones/chunks.ts";
import { ok, type Result } from "../core/failure.ts";
import type { Task } from "../core/head.ts";
import type { Target, TargetSet } from "../core/linear/targets.ts";
import { visibleText } from "../core/text/visible.ts";

/** What it returns is awaited before the next block. */
export type BlockHandler = (block: number, values: Float32Array) => unknown;

export interface TrainingSource {
  readonly task: Task;
  readonly modality: DatasetModality;
  readonly dimensions: number;
  readonly examples: number;
  /** Text that a local backbone may have to embed: bytes of UTF-8 times the backbone's cost factor. */
  readonly textBytes: number;
  readonly groups: Int32Array;
  readonly targets: TargetSet;
  /** So many of the last rows are texts of labels (core/linear/types.ts). */
  readonly labelTexts?: number;
  /**
   * Has a remote backbone embed what no cache has, which may take minutes. Afterwards `gatherFeatures` finds every
   * embedding. null unless the backbone is remote.
   */
  readonly prepare: ((yieldToEventLoop: YieldToEventLoop) => Promise<Result<{ embedded: number }>>) | null;
  /** Every row's text; null if the inputs are not texts. */
  readonly texts: TextSource | null;
  /**
   * Delivers the embeddings as blocks (rows × dimensions each) in the order of the rows. Block numbers ascend.
   * `deliver` copies what it keeps: the block may be freed as soon as it returns.
   */
  readonly gatherFeatures: (
    deliver: BlockHandler,
    yieldToEventLoop: YieldToEventLoop,
  ) => Promise<Result<{ embedded: number }>>;
}

/** Characters that are read for lexical features without a pause: some ten milliseconds of work. */
const LEXICAL_CHARACTERS_PER_CHUNK = 15_000;

/** Takes a text, without invisible characters. Returns whether it takes more of them. */
export type TextVisitor = (text: string) => boolean;

export interface TextSource {
  /** Length of all texts in UTF-8. */
  readonly bytes: number;
  /** Visits the texts in order until the visitor takes no more. Yields to the event loop before each chunk of text. */
  readonly forEachText: (visit: TextVisitor, yieldToEventLoop: YieldToEventLoop) => Promise<Result<null>>;
}

export function parseTargets(targets: readonly string[]): Target[] {
  return targets.map((json) => JSON.parse(json) as Target);
}

/** Visits texts, and yields before each chunk of them. Returns whether the visitor takes more. */
export async function visitTexts(
  texts: readonly string[],
  visit: TextVisitor,
  yieldToEventLoop: YieldToEventLoop,
): Promise<Result<boolean>> {
  let charactersLeft = 0;
  for (const text of texts) {
    if (charactersLeft <= 0) {
      const failure = await yieldToEventLoop();
      if (failure !== null) return { ok: false, failure };
      charactersLeft = LEXICAL_CHARACTERS_PER_CHUNK;
    }
    if (!visit(visibleText(text))) return ok(false);
    charactersLeft -= text.length;
  }
  return ok(true);
}
