import { OPERATIONS_PER_COPIED_NUMBER, type Steps } from "../steps.ts";
import type { Matrix, SparseRows, TensorBackend } from "../tensors.ts";
import { type Design, makeRows, makeSparseDesign, rowsPerBlock, type SparseDesign } from "./design.ts";
import { cutRows, joinRows, pickRows } from "./sparse.ts";

/**
 * A design of some rows, which ascend. A subset that is read only once has 32-bit floats and no sparse columns.
 */
export function* subsetDesign(
  tensors: TensorBackend,
  design: Design,
  rows: readonly number[],
  outputs: number,
  use: "many" | "once" = "many",
): Steps<Design> {
  const { dimensions } = design;
  // What is read once is not worth rounding.
  const precision = use === "once" ? "float32" : design.precision;
  const size = rowsPerBlock(rows.length, dimensions, outputs);
  const blockStarts: number[] = [];
  let start = 0;
  for (const block of design.blocks) {
    blockStarts.push(start);
    start += block.rows;
  }
  const blocks: Matrix[] = [];
  for (let first = 0; first < rows.length; first += size) {
    const rowsInBlock = rows.slice(first, first + size);
    const block = new Float32Array(rowsInBlock.length * dimensions);
    let position = 0;
    let nextBlock = 0;
    let values: Float32Array = new Float32Array();
    for (const row of rowsInBlock) {
      if (row >= (blockStarts[nextBlock] ?? Number.POSITIVE_INFINITY)) {
        while (row >= (blockStarts[nextBlock] ?? Number.POSITIVE_INFINITY)) nextBlock++;
        values = tensors.values(design.blocks[nextBlock - 1] as Matrix);
      }
      const offset = (row - (blockStarts[nextBlock - 1] as number)) * dimensions;
      block.set(values.subarray(offset, offset + dimensions), position);
      position += dimensions;
    }
    blocks.push(makeRows(tensors, rowsInBlock.length, dimensions, block, precision));
    yield OPERATIONS_PER_COPIED_NUMBER * block.length;
  }
  const sparse =
    design.sparse === null || use === "once"
      ? null
      : yield* makeSparseDesign(
          tensors,
          cutRows(
            pickFromBlocks(tensors, design.sparse, rows),
            blocks.map((block) => block.rows),
          ),
          design.sparse.columns,
        );
  return { ...design, precision, blocks, rows: rows.length, sparse };
}

/** A copy of some rows of a sparse design. `rows` ascend. */
function pickFromBlocks(tensors: TensorBackend, { blocks }: SparseDesign, rows: readonly number[]): SparseRows {
  let first = 0;
  let next = 0;
  const parts = blocks.map((block) => {
    const rowsInBlock: number[] = [];
    for (; next < rows.length && (rows[next] as number) < first + block.rows; next++)
      rowsInBlock.push((rows[next] as number) - first);
    first += block.rows;
    return pickRows(tensors.readSparse(block), rowsInBlock);
  });
  return joinRows(parts);
}
