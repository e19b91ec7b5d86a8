const MAX_LEVEL = 7;
/**
 * Factors to try on the scale at which a row's largest number just fits. A smaller scale clips it, and is finer for the
 * others.
 */
const SCALES = [1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6];

/**
 * The bytes of a static table (text-static.ts has the format). Each row gets the half-precision scale with the least
 * squared error.
 */
export function quantise(
  rows: Float32Array,
  {
    dimensions,
    vocabulary,
    buckets,
  }: { readonly dimensions: number; readonly vocabulary: number; readonly buckets: number },
): Uint8Array {
  const count = vocabulary + buckets;
  const bytes = new Uint8Array(16 + count * (2 + dimensions / 2));
  const view = new DataView(bytes.buffer);
  bytes.set(new TextEncoder().encode("GST1"));
  [dimensions, vocabulary, buckets].forEach((each, i) => {
    view.setUint32(4 + 4 * i, each, true);
  });
  const start = 16 + 2 * count;
  for (let row = 0; row < count; row++) {
    const x = rows.subarray(row * dimensions, (row + 1) * dimensions);
    const maxAbs = x.reduce((top, value) => Math.max(top, Math.abs(value)), 0) || 1;
    let best = { bits: 0, scale: 1, error: Number.POSITIVE_INFINITY };
    for (const factor of SCALES) {
      const bits = toFloat16((maxAbs / MAX_LEVEL) * factor);
      const scale = fromFloat16(bits);
      let error = 0;
      for (const value of x) error += (value - scale * nearestLevel(value, scale)) ** 2;
      if (error < best.error) best = { bits, scale, error };
    }
    view.setUint16(16 + 2 * row, best.bits, true);
    for (let j = 0; j < dimensions; j += 2) {
      const low = nearestLevel(x[j] as number, best.scale) + 8;
      const high = nearestLevel(x[j + 1] as number, best.scale) + 8;
      bytes[start + (row * dimensions + j) / 2] = low | (high << 4);
    }
  }
  return bytes;
}

function nearestLevel(value: number, scale: number): number {
  return Math.max(-MAX_LEVEL, Math.min(MAX_LEVEL, Math.round(value / scale)));
}

/** The bits of the nearest normal IEEE 754 binary16 to a positive number. */
function toFloat16(value: number): number {
  const exponent = Math.max(-14, Math.min(15, Math.floor(Math.log2(value))));
  const fraction = Math.round((value / 2 ** exponent - 1) * 1024);
  return Math.max(1 << 10, ((exponent + 15) << 10) + fraction);
}

function fromFloat16(bits: number): number {
  return (1 + (bits & 1023) / 1024) * 2 ** ((bits >> 10) - 15);
}
