/** What it costs at most to test heads on a dataset, before it starts. */
import { OPERATIONS_PER_TEXT_BYTE } from "../linear/cost.ts";
import type { Cost } from "../linear/types.ts";

export interface TestShape {
  readonly examples: number;
  /** Text that a local backbone may have to embed first: bytes of UTF-8 times the backbone's cost factor. */
  readonly textBytes: number;
  /** Length of all texts in UTF-8. */
  readonly inputBytes: number;
  /** Of the heads that are tested on the same embeddings. */
  readonly heads: readonly { readonly dimensions: number; readonly outputs: number; readonly lexical: boolean }[];
}

/** Rows are predicted one by one in JavaScript, which takes so many times as long for an operation as a product in WASM. */
const OPERATIONS_PER_MULTIPLICATION = 15;
/** What it counts to rank a label, in multiplications. */
const MULTIPLICATIONS_PER_LABEL = 100;
/** Of what is kept of a row for each head, and of the row itself. */
const BYTES_PER_ROW = 64;
/** Blocks of embeddings, with their bytes, that may be alive at once. */
const BLOCK_BYTES = 16_000_000;

export function estimateTestCost(shapes: readonly TestShape[]): Cost {
  let [operations, rowBytes] = [0, 0];
  for (const { examples, textBytes, inputBytes, heads } of shapes) {
    operations += OPERATIONS_PER_TEXT_BYTE * textBytes;
    rowBytes += BYTES_PER_ROW * examples * (1 + heads.length);
    for (const { dimensions, outputs, lexical } of heads) {
      const multiplications = examples * outputs * (dimensions + MULTIPLICATIONS_PER_LABEL);
      operations += OPERATIONS_PER_MULTIPLICATION * multiplications;
      if (lexical) operations += inputBytes * (OPERATIONS_PER_TEXT_BYTE + OPERATIONS_PER_MULTIPLICATION * outputs);
    }
  }
  return { operations: Math.ceil(operations), bytes: Math.ceil(rowBytes + BLOCK_BYTES) };
}
