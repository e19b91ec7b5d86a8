import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Backbone } from "../../src/backbones/backbone.ts";
import { embeddingWork, embedInChunks, maxCharacters } from "../../src/backbones/chunks.ts";
import { loadDelta, readDelta } from "../../src/backbones/deltas.ts";
import {
  applyEncoderDelta,
  baseReader,
  decodeEncoderDelta,
  type EncoderDelta,
  encodeEncoderDelta,
} from "../../src/backbones/fine-tuned-encoder.ts";
import { textStatic, textUse } from "../../src/backbones/node.ts";
import { floatReader, floatTensors, layerNames } from "../../src/backbones/sentence-encoder/layout.ts";
import { seededRandom } from "../../src/core/random.ts";
import { makeWeights, shape } from "./small-encoder.ts";

const base = makeWeights(5);
const before = floatReader(shape, base);
const CHANGED_ROWS = [3, 20, 39];

/** The numbers of a base, each matrix with a random change that is a tenth of its size; of the table three rows. */
function makeChange(of: typeof textUse.shape, before: (name: string) => Float32Array, seed: number, layers: number) {
  const random = seededRandom(seed);
  const tensors = new Map<string, Float32Array>();
  for (const { name, width } of floatTensors(of, layers)) {
    const values = before(name);
    const size = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length) / 10;
    const isChanged = (i: number) => name !== "table.weights" || CHANGED_ROWS.includes(Math.floor(i / (width ?? 1)));
    tensors.set(
      name,
      values.map((value, i) => (isChanged(i) ? value + size * (2 * random() - 1) : value)),
    );
  }
  const after = (name: string) => tensors.get(name) ?? new Float32Array(0);
  const { id, revision } = textUse;
  return { after, delta: encodeEncoderDelta({ base: { id, revision }, layers, shape: of, before, after }) };
}

const decode = (bytes: Uint8Array) => decodeEncoderDelta(bytes) as EncoderDelta;

describe("a delta of a sentence encoder", () => {
  it.each([1, 2, 4])(
    "gives back the numbers of %i trained layers, but for the rounding, and leaves the others",
    (layers) => {
      const { after, delta } = makeChange(shape, before, 1, layers);
      const weights = applyEncoderDelta(shape, base, decode(delta)) as Uint8Array;
      const read = floatReader(shape, weights);
      const changed = new Set(floatTensors(shape, layers).map(({ name }) => name));
      for (const { name, width, length } of floatTensors(shape)) {
        const [actual, start] = [read(name), before(name)];
        if (!changed.has(name)) {
          expect(actual, name).toEqual(start);
          continue;
        }
        const expected = after(name);
        if (width === null) {
          expect(actual, name).toEqual(expected);
          continue;
        }
        let [error, change] = [0, 0];
        for (let i = 0; i < length; i++) {
          error += ((actual[i] as number) - (expected[i] as number)) ** 2;
          change += ((expected[i] as number) - (start[i] as number)) ** 2;
        }
        // Four bits of the change, then eight of the sum.
        expect(Math.sqrt(error / change), name).toBeLessThan(0.25);
      }
      // A matrix takes half a byte a number; the table only what changed.
      const tensors = floatTensors(shape, layers);
      const bytesOf = ({ name, length, width }: (typeof tensors)[number]) => {
        if (width === null) return 4 * length;
        const rows = name === "table.weights" ? CHANGED_ROWS.length : length / width;
        return 16 + rows * (2 + width / 2) + (name === "table.weights" ? 4 * (1 + rows) : 0);
      };
      expect(decode(delta).tensors.length).toBe(tensors.reduce((sum, tensor) => sum + bytesOf(tensor), 0));
    },
  );

  it("is a backbone over its base, which embeds other numbers in the same dimensions", async () => {
    const { delta } = makeChange(textUse.shape, baseReader(textUse), 2, 1);
    const ref = { id: "ft:x", revision: "1" };
    const loaded = loadDelta(textUse, ref, decode(delta), delta.length);
    const { backbone, residentBytes } = loaded as NonNullable<typeof loaded>;
    expect(backbone).toMatchObject({
      ...ref,
      kind: "fine_tuned",
      dimensions: 768,
      cost: "local_cached",
      bytes: delta.length,
    });
    expect(residentBytes).toBeGreaterThan(textUse.encoder().network.weights().length);
    // What requests may ask of it is what they may ask of its base.
    expect(maxCharacters(backbone)).toBe(1024);
    expect(embeddingWork(backbone, 5_000, 2)).toBe(2 * 1024 * 40);
    expect(embeddingWork(backbone, 5_000, 2)).toBe(embeddingWork(textUse, 5_000, 2));
    const texts = ["where is my parcel", ""];
    const { rows } = await backbone.embed(texts);
    const { rows: baseRows } = await textUse.embed(texts);
    expect(rows[0]?.subarray(0, 256)).toEqual(baseRows[0]?.subarray(0, 256));
    expect(rows[0]?.subarray(256)).not.toEqual(baseRows[0]?.subarray(256));
    expect(rows[1]).toEqual(baseRows[1]);
    // The base is as it was.
    expect((await textUse.embed(texts)).rows).toEqual(baseRows);
  });

  it("embeds as little without a pause as its base does", async () => {
    const { delta } = makeChange(textUse.shape, baseReader(textUse), 2, 1);
    const loaded = loadDelta(textUse, { id: "ft:x", revision: "1" }, decode(delta), delta.length);
    const { backbone } = loaded as NonNullable<typeof loaded>;
    const pausesOf = async (each: Backbone) => {
      let pauses = 0;
      await embedInChunks(each, Array(20).fill("where is my parcel, which I ordered in the last week"), async () => {
        pauses++;
        return null;
      });
      return pauses;
    };
    expect(await pausesOf(backbone)).toBe(2);
    expect(await pausesOf(textUse)).toBe(2);
  });

  it("belongs to no backbone of another kind or shape", () => {
    const { delta } = makeChange(shape, before, 3, 1);
    const ref = { id: "ft:x", revision: "1" };
    expect(loadDelta(textStatic, ref, decode(delta), delta.length)).toBeNull();
    for (const layers of [0, 2, layerNames(shape).length + 1])
      expect(applyEncoderDelta(shape, base, { ...decode(delta), layers })).toBeNull();
  });

  it("is refused if it is cut, longer, or has a number that is not finite", () => {
    const { delta } = makeChange(shape, before, 4, 1);
    const { tensors } = decode(delta);
    const apply = (bytes: Uint8Array) => applyEncoderDelta(shape, base, { ...decode(delta), tensors: bytes });
    for (const length of [0, 1, 15, 100, tensors.length - 1]) expect(apply(tensors.subarray(0, length))).toBeNull();
    expect(apply(new Uint8Array([...tensors, 0]))).toBeNull();
    const notFinite = tensors.slice();
    new DataView(notFinite.buffer).setFloat32(notFinite.length - 4, Number.NaN, true);
    expect(apply(notFinite)).toBeNull();
  });

  it("throws at no byte that is changed", () => {
    const { delta } = makeChange(shape, before, 6, 4);
    fc.assert(
      fc.property(fc.nat(delta.length - 1), fc.integer({ min: 1, max: 255 }), (index, change) => {
        const damaged = delta.slice();
        damaged[index] = (damaged[index] as number) ^ change;
        const read = decodeEncoderDelta(damaged);
        if (read !== null) expect(() => applyEncoderDelta(shape, base, read)).not.toThrow();
      }),
    );
    // The first table's magic number.
    const { tensors } = decode(delta);
    const first = Buffer.from(tensors).indexOf("GST1");
    const other = tensors.slice();
    other[first] = 0;
    expect(applyEncoderDelta(shape, base, { ...decode(delta), tensors: other })).toBeNull();
  });

  it("reads no bytes at random, and throws at none", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        expect(readDelta(bytes)).toBeNull();
        expect(readDelta(new Uint8Array([...Buffer.from("GFE1"), ...bytes]))).toBeNull();
      }),
    );
  });
});
