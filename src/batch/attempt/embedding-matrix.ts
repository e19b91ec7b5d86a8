/** Embeddings, row by row in blocks, so that they can grow without being copied. */

/** Rows of a block. */
const BLOCK_ROWS = 1024;

export interface EmbeddingMatrix {
  readonly dimensions: number;
  count(): number;
  /** Adds a copy of a row. */
  push(row: Float32Array): void;
  at(row: number): Float32Array;
  /** All rows' bytes, one after another, in this machine's byte order: little-endian. */
  bytes(): Uint8Array[];
}

export function makeEmbeddingMatrix(dimensions: number): EmbeddingMatrix {
  const blocks: Float32Array[] = [];
  let count = 0;
  const at = (row: number) => {
    const start = (row % BLOCK_ROWS) * dimensions;
    return (blocks[Math.floor(row / BLOCK_ROWS)] as Float32Array).subarray(start, start + dimensions);
  };
  return {
    dimensions,
    count: () => count,
    push(row) {
      if (count % BLOCK_ROWS === 0) blocks.push(new Float32Array(BLOCK_ROWS * dimensions));
      at(count++).set(row);
    },
    at,
    bytes: () =>
      blocks.map((block, i) => {
        const rows = Math.min(BLOCK_ROWS, count - i * BLOCK_ROWS);
        return new Uint8Array(block.buffer, 0, 4 * rows * dimensions);
      }),
  };
}
