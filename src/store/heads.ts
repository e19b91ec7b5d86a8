import { decodeHead, withoutSection } from "../core/codec.ts";
import type { Head } from "../core/head.ts";
import { decodeSketch, MAX_SKETCH_BYTES, SKETCH, type Sketch } from "../core/sketch.ts";
import { readBytes } from "./content-addressed.ts";
import { isolateCache } from "./isolate-cache.ts";
import { headKey } from "./keys.ts";

/** A head, from the isolate's memory, KV or R2; null if its bytes cannot be read. */
export async function getHead(kv: KVNamespace, bucket: R2Bucket, tenant: string, sha256: string): Promise<Head | null> {
  const key = headKey(tenant, sha256);
  const cached = isolateCache.get(key);
  if (cached) return cached as Head;
  const bytes = await readBytes(kv, bucket, key);
  if (!bytes) return null;
  const kept = withoutSketch(bytes);
  const head = decodeHead(kept);
  if (head) isolateCache.set(key, head, kept.byteLength);
  return head;
}

/** A sketch that is a smaller part of a head's bytes than this is left in them: a copy of a large head takes more. */
const MIN_SKETCH_SHARE = 1 / 8;

function withoutSketch(bytes: Uint8Array): Uint8Array {
  return MAX_SKETCH_BYTES < MIN_SKETCH_SHARE * bytes.length ? bytes : withoutSection(bytes, SKETCH);
}

const noSketch: Sketch = {
  dimensions: 0,
  positions: new Uint32Array(0),
  codes: new Int8Array(0),
  norms: new Float64Array(0),
  signs: new Uint32Array(0),
};

/** A head's sketch of training examples, from the isolate's memory, KV or R2; an empty one if it has none. */
export async function getSketch(kv: KVNamespace, bucket: R2Bucket, tenant: string, sha256: string): Promise<Sketch> {
  const key = headKey(tenant, sha256);
  const cached = isolateCache.get(`${key}#${SKETCH}`);
  if (cached) return cached as Sketch;
  const bytes = await readBytes(kv, bucket, key);
  const section = bytes && decodeHead(bytes)?.sections.find(({ name }) => name === SKETCH);
  const sketch = (section && decodeSketch(section.bytes)) ?? noSketch;
  if (bytes)
    isolateCache.set(
      `${key}#${SKETCH}`,
      sketch,
      1_000 + sketch.codes.byteLength + 12 * sketch.positions.length + sketch.signs.byteLength,
    );
  return sketch;
}
