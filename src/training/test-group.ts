/** Has heads on one backbone predict the rows of a test set, block by block. */
import type { Backbone } from "../backbones/backbone.ts";
import type { HeadTest } from "../core/evaluation/test-set.ts";
import { ok, type Result } from "../core/failure.ts";
import { type Head, logitsOf } from "../core/head.ts";
import { createLexicalVectorizer } from "../core/text/lexical.ts";
import { visibleText } from "../core/text/visible.ts";
import { OPERATIONS_PER_YIELD, predictionOperations } from "../serving/predict.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import { matchesHash } from "../store/blocks.ts";
import type { TrainingRows } from "../tenant/data/training-sets.ts";
import { getLedger } from "../tenant/tenant.ts";
import { datasetChanged } from "./dataset-source.ts";
import type { SlotHolder } from "./slot.ts";
import type { TrainingSource } from "./source.ts";

/** Heads on one backbone, and the rows with what is stored of their embeddings. */
export interface TestGroup {
  readonly backbone: Backbone | null;
  readonly heads: readonly Head[];
  readonly rows: TrainingRows;
  readonly source: TrainingSource;
}

/** Gathers the embeddings of a group, and has its heads predict each block as it comes. */
export async function testGroup(
  request: TenantRequest,
  slots: SlotHolder,
  { heads, rows, source }: TestGroup,
  tests: readonly { readonly head: Head; readonly test: HeadTest }[],
): Promise<Result<{ embedded: number }>> {
  const needsTexts = heads.some(({ lexical }) => lexical !== null);
  const predictors = tests.map(({ head, test }) => makePredictor(head, test));
  const yieldToEventLoop = async () => {
    await scheduler.wait(0);
    return slots.stopReason;
  };
  let failure: Result<never> | null = null;
  let [row, operations] = [0, 0];
  const predictBlock = async (_block: number, values: Float32Array) => {
    const count = values.length / source.dimensions;
    for (let start = 0; start < count && failure === null; ) {
      const texts: Result<readonly string[]> = needsTexts
        ? await readTexts(request, rows, row, row + count - start)
        : ok([]);
      if (!texts.ok) {
        failure = texts;
        return;
      }
      const [first, end] = [start, needsTexts ? start + texts.value.length : count];
      for (; start < end; start++, row++) {
        const embedding = values.subarray(start * source.dimensions, (start + 1) * source.dimensions);
        for (const predict of predictors) operations += predict(row, embedding, texts.value[start - first] ?? "");
        if (operations < OPERATIONS_PER_YIELD) continue;
        operations = 0;
        const stopReason = await yieldToEventLoop();
        if (stopReason !== null) {
          failure = { ok: false, failure: stopReason };
          return;
        }
      }
    }
  };
  const gathered = await source.gatherFeatures(predictBlock, yieldToEventLoop);
  return failure ?? gathered;
}

/** Predicts a row, and answers the operations that it took. */
function makePredictor(head: Head, test: HeadTest) {
  const readFeatures = head.lexical === null ? null : createLexicalVectorizer(head.lexical);
  return (row: number, embedding: Float32Array, text: string): number => {
    test.add(row, logitsOf(head, embedding, readFeatures?.(text) ?? null), embedding);
    return predictionOperations(head, text);
  };
}

/** The texts of rows, or only the first of them if they are large. */
async function readTexts(
  { env, tenant }: TenantRequest,
  { dataset, positions, inputHashes }: TrainingRows,
  start: number,
  end: number,
): Promise<Result<readonly string[]>> {
  const read = await getLedger(env.TENANT, tenant).readInputs(
    dataset.id,
    Array.from(positions.subarray(start, end)),
    dataset.revision,
  );
  if (!read.ok) return read;
  const texts = read.value.filter((input) => typeof input === "string");
  const isChanged = texts.length === 0 || texts.length < read.value.length;
  if (isChanged || texts.some((text, i) => !matchesHash(text, inputHashes, start + i))) return datasetChanged;
  return ok(texts.map(visibleText));
}
