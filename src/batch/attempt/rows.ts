/** Embeddings, row by row in blocks, so that they can grow without being copied. */

/** Rows of a block. */
const BLOCK = 1024;

export interface Rows {
  readonly dimensions: number;
  count(): number;
  /** Adds a copy of a row. */
  push(row: Float32Array): void;
  at(row: number): Float32Array;
  /** All rows' bytes, little-endian as this machine is, one after another. */
  bytes(): Uint8Array[];
}

export function makeRows(dimensions: number): Rows {
  const blocks: Float32Array[] = [];
  let count = 0;
  const at = (row: number) => {
    const start = (row % BLOCK) * dimensions;
    return (blocks[Math.floor(row / BLOCK)] as Float32Array).subarray(start, start + dimensions);
  };
  return {
    dimensions,
    count: () => count,
    push(row) {
      if (count % BLOCK === 0) blocks.push(new Float32Array(BLOCK * dimensions));
      at(count++).set(row);
    },
    at,
    bytes: () =>
      blocks.map((block, i) => {
        const rows = Math.min(BLOCK, count - i * BLOCK);
        return new Uint8Array(block.buffer, 0, 4 * rows * dimensions);
      }),
  };
}
