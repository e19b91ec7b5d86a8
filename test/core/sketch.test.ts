import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeHead, encodeHead, withoutSection } from "../../src/core/codec.ts";
import { chooseRows } from "../../src/core/linear/sketch-rows.ts";
import { seededRandom } from "../../src/core/random.ts";
import {
  decodeSketch,
  findNearest,
  heldPositions,
  MAX_SKETCH_BYTES,
  type RowSketch,
  rowBytes,
  SKETCH,
  sketchCapacity,
  withSketch,
  writeCodes,
} from "../../src/core/sketch.ts";
import { linearHead } from "../contract/linear-head.ts";

const plainHead = linearHead({
  task: "regression",
  labels: [],
  dimensions: 2,
  weights: Float32Array.of(1, 2),
  bias: Float32Array.of(3),
});

function makeRows(count: number, dimensions: number): { sketch: RowSketch; rows: Float32Array[] } {
  const random = seededRandom(dimensions);
  const rows = Array.from({ length: count }, () =>
    Float32Array.from({ length: dimensions }, () => random() + random() + random() - 1.5),
  );
  const codes = new Uint8Array(count * rowBytes(dimensions));
  for (const [i, row] of rows.entries())
    writeCodes(row, codes.subarray(i * rowBytes(dimensions)).subarray(0, rowBytes(dimensions)));
  const indices = Uint32Array.from(rows.keys());
  return { sketch: { dimensions, rows: indices, codes, centroidRows: Uint32Array.of(count + 5) }, rows };
}

const sectionOf = (sketch: RowSketch, positionOf: (row: number) => number | undefined = (row) => 3 * row) =>
  withSketch(plainHead, sketch, positionOf).sections[0]?.bytes ?? new Uint8Array(0);

function cosine(a: Float32Array, b: Float32Array): number {
  const dot = (x: Float32Array, y: Float32Array) => x.reduce((sum, value, j) => sum + value * (y[j] ?? 0), 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

describe("a sketch", () => {
  it.each([7, 256])("of %i dimensions finds the examples that are nearest, with about their cosines", (dimensions) => {
    const { sketch, rows } = makeRows(200, dimensions);
    const decoded = decodeSketch(sectionOf(sketch));
    if (decoded === null) throw new Error("This is no sketch.");
    for (const query of rows.slice(0, 20)) {
      const noisy = query.map((value, j) => value + (j % 3) / 10);
      const found = findNearest(decoded, noisy, 5);
      expect(found).toHaveLength(5);
      const exact = rows.map((row, i) => ({ position: 3 * i, similarity: cosine(noisy, row) }));
      exact.sort((a, b) => b.similarity - a.similarity);
      if (dimensions > 10) expect(found[0]?.position).toBe(exact[0]?.position);
      for (const { position, similarity } of found) {
        const own = exact.find((each) => each.position === position)?.similarity ?? 0;
        expect(Math.abs(similarity - own)).toBeLessThan(dimensions < 10 ? 0.15 : 0.02);
      }
      expect(found.map(({ similarity }) => similarity)).toEqual(
        found.map(({ similarity }) => similarity).toSorted((a, b) => b - a),
      );
    }
    expect(findNearest(decoded, new Float32Array(dimensions), 5)).toEqual([]);
    expect(findNearest(decoded, new Float32Array(dimensions + 1).fill(1), 5)).toEqual([]);
  });

  it("is a section of a head, which can be taken out, and that knows which examples it holds", () => {
    const { sketch } = makeRows(3, 2);
    const head = withSketch({ ...plainHead, sections: [] }, sketch, (row) => (row === 1 ? undefined : 10 - row));
    const bytes = encodeHead(head);
    const decoded = decodeHead(bytes);
    expect(decoded && heldPositions(decoded)).toEqual(Uint32Array.of(2, 8, 10));
    const kept = withoutSection(bytes, SKETCH);
    expect(decodeHead(kept)).toEqual(decodeHead(encodeHead(plainHead)));
    expect(kept.length).toBeLessThan(bytes.length);
    expect(withoutSection(kept, SKETCH)).toBe(kept);
    // What cannot be done without stays, and so do the bytes of older formats.
    expect(withoutSection(bytes, "weights")).toBe(bytes);
    const older = encodeHead(plainHead);
    expect(withoutSection(older, SKETCH)).toBe(older);
    expect(heldPositions(plainHead)).toBeNull();
  });

  it("has no rows without an example, and without any a head has none", () => {
    const { sketch } = makeRows(3, 4);
    expect(withSketch(plainHead, sketch, () => undefined)).toBe(plainHead);
    const decoded = decodeSketch(sectionOf(sketch, (row) => (row === 2 ? 7 : undefined)));
    expect(decoded?.positions).toEqual(Uint32Array.of(7));
    expect(decoded?.codes).toEqual(decodeSketch(sectionOf(sketch))?.codes.slice(8));
  });

  it("is null if its bytes are cut, changed in length, or of another version", () => {
    const bytes = sectionOf(makeRows(3, 4).sketch);
    for (let length = 0; length < bytes.length; length++) expect(decodeSketch(bytes.subarray(0, length))).toBeNull();
    const other = bytes.slice();
    other[3] = 0x32;
    expect(decodeSketch(other)).toBeNull();
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (random) => {
        decodeSketch(random);
      }),
    );
  });

  it("takes at most 256 KB", () => {
    for (const dimensions of [1, 2, 255, 256, 768, 4096]) {
      const capacity = sketchCapacity(dimensions);
      expect(capacity).toBeGreaterThan(100);
      expect(capacity * (rowBytes(dimensions) + 4)).toBeLessThanOrEqual(MAX_SKETCH_BYTES);
    }
  });
});

it("a sketch's rows are as many of each class as there is room for, each input once", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ stratum: fc.integer({ min: -1, max: 4 }), group: fc.nat(60) }), { maxLength: 80 }),
      fc.integer({ min: 1, max: 40 }),
      (examples, count) => {
        const strata = Int32Array.from(examples, ({ stratum }) => stratum);
        const groups = Int32Array.from(examples, ({ group }) => group);
        const rows = Array.from(chooseRows({ strata, groups }, count));
        expect(rows).toEqual([...new Set(rows)].sort((a, b) => a - b));
        const inputs = new Set(groups);
        expect(rows.length).toBeLessThanOrEqual(Math.min(count, inputs.size));
        expect(new Set(rows.map((row) => groups[row])).size).toBe(rows.length);
        const firsts = [...inputs].map((group) => groups.indexOf(group));
        const sizes = Map.groupBy(firsts, (row) => strata[row]);
        // All if there is room; otherwise no class has fewer than another that it could have more than.
        expect(rows.length).toBe(Math.min(count, inputs.size));
        const chosen = [...sizes].map(([stratum, all]) => ({
          all: all.length,
          own: rows.filter((row) => strata[row] === stratum).length,
        }));
        const most = Math.max(...chosen.map(({ own }) => own));
        for (const { all, own } of chosen) expect(own).toBeGreaterThanOrEqual(Math.min(all, most - 1));
      },
    ),
  );
});
