import type { Steps } from "../steps.ts";
import type { Matrix, SparseRows, TensorBackend } from "../tensors.ts";
import { type Design, makeSparseDesign, rowsPerBlock, type SparseDesign, withTransposed } from "./design.ts";
import { joinRows, pickRows } from "./sparse.ts";

/**
 * A design of some rows, which ascend, with transposed blocks if the design has them. A subset that is read only once
 * has neither transposed blocks nor sparse columns.
 */
export function* subsetDesign(
  tensors: TensorBackend,
  design: Design,
  rows: readonly number[],
  outputs: number,
  use: "many" | "once" = "many",
): Steps<Design> {
  const { dimensions } = design;
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
    let sourceBlock = 0;
    let position = 0;
    for (const row of rowsInBlock) {
      if (row < (blockStarts[sourceBlock] as number)) sourceBlock = 0;
      while (sourceBlock + 1 < blockStarts.length && row >= (blockStarts[sourceBlock + 1] as number)) sourceBlock++;
      const offset = (row - (blockStarts[sourceBlock] as number)) * dimensions;
      block.set(tensors.view(design.blocks[sourceBlock] as Matrix).subarray(offset, offset + dimensions), position);
      position += dimensions;
    }
    blocks.push(tensors.matrix(rowsInBlock.length, dimensions, block));
    yield block.length;
  }
  const sparse =
    design.sparse === null || use === "once"
      ? null
      : makeSparseDesign(
          tensors,
          pickFromBlocks(tensors, design.sparse, rows),
          design.sparse.columns,
          blocks.map((block) => block.rows),
        );
  const subset = { ...design, blocks, rows: rows.length, sparse };
  return use === "once" || design.transposed === null
    ? { ...subset, transposed: null }
    : withTransposed(tensors, subset);
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
