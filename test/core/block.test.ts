import fc from "fast-check";
import { expect, it } from "vitest";
import { type Block, decodeBlock, encodeBlock, roundRows } from "../../src/core/block.ts";

const magicOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes.subarray(0, 4));

/** A block of rows of these numbers. */
function makeBlock(values: readonly number[], dimensions: number): Block {
  const count = Math.floor(values.length / dimensions);
  const hashes = Uint8Array.from({ length: 16 * count }, (_, i) => i % 251);
  return { dimensions, hashes, rows: Float32Array.from(values.slice(0, count * dimensions)) };
}

/** Rows of numbers below this are kept as zeros. */
const tiny = 127 * 2 ** -126;

const anyBlock = fc
  .tuple(
    fc.array(
      fc.oneof(fc.float({ min: -1000, max: 1000, noNaN: true }), fc.float({ min: -tiny, max: tiny, noNaN: true })),
      {
        maxLength: 60,
      },
    ),
    fc.integer({ min: 1, max: 9 }),
  )
  .map(([values, dimensions]) => makeBlock(values, dimensions));

it("reads a block of 32-bit floats as it was written", () => {
  const property = fc.property(anyBlock, (block) => {
    const bytes = encodeBlock(block, "float32");
    expect(magicOf(bytes)).toBe("GEB2");
    expect(decodeBlock(bytes, block.dimensions)).toEqual(block);
  });
  fc.assert(property);
});

it("keeps a row of 8 bits a number to half a level, and the bytes of a row that it kept before", () => {
  const property = fc.property(anyBlock, (block) => {
    const { dimensions, hashes, rows } = block;
    const bytes = encodeBlock(block, "int8");
    expect(magicOf(bytes)).toBe("GEB3");
    expect(bytes.length).toBe(12 + hashes.length + (rows.length / dimensions) * (4 + dimensions));
    const decoded = decodeBlock(bytes, dimensions);
    if (decoded === null) throw new Error("It is not read.");
    expect(decoded.hashes).toEqual(hashes);
    for (let start = 0; start < rows.length; start += dimensions) {
      const values = rows.subarray(start, start + dimensions);
      // The scale is rounded up by a 65,536th at most.
      const level = (Math.max(...values.map(Math.abs)) / 127) * (1 + 2 ** -16);
      for (const [j, value] of values.entries())
        expect(Math.abs((decoded.rows[start + j] ?? 0) - value)).toBeLessThanOrEqual(Math.max(level / 2, tiny));
    }
    const rounded = rows.slice();
    roundRows(rounded, dimensions);
    expect(rounded).toEqual(decoded.rows);
    expect(encodeBlock({ ...block, rows: rounded }, "int8")).toEqual(bytes);
    expect(encodeBlock(decoded, "int8")).toEqual(bytes);
  });
  fc.assert(property);
});

it("loses no accuracy at the size of an embedding", () => {
  let state = 1;
  const random = () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
  const rows = Float32Array.from({ length: 20 * 768 }, () => random() + random() + random() - 1.5);
  const rounded = rows.slice();
  roundRows(rounded, 768);
  for (let start = 0; start < rows.length; start += 768) {
    let [dot, a, b] = [0, 0, 0];
    for (let j = start; j < start + 768; j++) {
      const [x = 0, y = 0] = [rows[j], rounded[j]];
      dot += x * y;
      a += x * x;
      b += y * y;
    }
    expect(dot / Math.sqrt(a * b)).toBeGreaterThan(0.9999);
  }
});

it("reads no block of another version, of other dimensions, or that is not whole", () => {
  for (const precision of ["float32", "int8"] as const) {
    const bytes = encodeBlock(makeBlock([1, 2, 3, 4], 2), precision);
    expect(decodeBlock(bytes, 2)).not.toBeNull();
    expect(decodeBlock(new Uint8Array([0, ...bytes]).subarray(1), 2)).toEqual(decodeBlock(bytes, 2));
    expect(decodeBlock(bytes, 3)).toBeNull();
    for (const length of [0, 4, 11, bytes.length - 1]) expect(decodeBlock(bytes.slice(0, length), 2)).toBeNull();
    // Version 1 has embeddings of texts with their invisible characters.
    for (const version of ["1", "4", "9"]) {
      bytes[3] = version.charCodeAt(0);
      expect(decodeBlock(bytes, 2)).toBeNull();
    }
  }
});
