/** A sentence encoder of few numbers. */
import { type EncoderShape, encoderLayout, MAGIC } from "../../src/backbones/sentence-encoder/layout.ts";
import { seededRandom } from "../../src/core/random.ts";

export const shape: EncoderShape = { vocabulary: 40, widths: [16, 32, 32], heads: 2, hidden: 48, maxTokens: 8 };

/** A weights file of random numbers. */
export function makeWeights(seed: number): Uint8Array<ArrayBuffer> {
  const random = seededRandom(seed);
  const { tensors, offsets, bytes } = encoderLayout(shape);
  const file = new Uint8Array(bytes);
  new Uint32Array(file.buffer, 0, 2).set([MAGIC, bytes]);
  for (const { name, type, length } of tensors) {
    const start = offsets.get(name) ?? 0;
    if (type === "int8")
      new Int8Array(file.buffer, start, length).set(Array.from({ length }, () => 254 * random() - 127));
    else new Float32Array(file.buffer, start, length).set(Array.from({ length }, () => random() / 100));
  }
  return file;
}
