/**
 * The section "scope" of a head (codec.ts): how it tells what is in scope (evaluation/scope.ts).
 *
 *   "GSC1" | header {examples, figures, centroids: {dimensions, starts} or null} | scores f32 | scales f32, codes i8
 */
import { type Centroids, withNorms } from "./evaluation/centroids.ts";
import type { Scope, ScopeFigure } from "./evaluation/scope.ts";
import { decodeSections, encodeSections } from "./sections.ts";

const SCOPE_V1_MAGIC = 0x31435347;

interface ScopeHeader {
  readonly examples: number;
  readonly figures: readonly ScopeFigure[];
  readonly centroids: { readonly dimensions: number; readonly starts: readonly number[] } | null;
}

export function encodeScope({ examples, figures, scores, centroids }: Scope): Uint8Array<ArrayBuffer> {
  const header: ScopeHeader = {
    examples,
    figures,
    centroids: centroids && { dimensions: centroids.dimensions, starts: Array.from(centroids.starts) },
  };
  const section = (name: string, array: Float32Array | Int8Array) => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    return { name, bytes, required: true };
  };
  const sections = [section("scores", scores)];
  if (centroids !== null) sections.push(section("scales", centroids.scales), section("codes", centroids.codes));
  return encodeSections(SCOPE_V1_MAGIC, { header, sections });
}

/** The scope in `bytes`, for a head of so many labels and dimensions. Null unless they are a complete one of a known version. */
export function decodeScope(bytes: Uint8Array, labels: number, dimensions: number): Scope | null {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const magic = aligned.length < 8 ? 0 : new DataView(aligned.buffer, aligned.byteOffset).getUint32(0, true);
  const container = magic === SCOPE_V1_MAGIC ? decodeSections(aligned) : null;
  if (container === null) return null;
  const { examples, figures, centroids: shape } = container.header as unknown as ScopeHeader;
  const part = (name: string) => container.sections.find((section) => section.name === name)?.bytes ?? null;
  const scores = toFloats(part("scores"));
  if (!Number.isInteger(examples) || !Array.isArray(figures) || scores === null || scores.length === 0) return null;
  if (shape === null) return { examples, figures, scores, centroids: null };
  const centroids = decodeCentroids(shape, toFloats(part("scales")), part("codes"));
  const fits = centroids !== null && centroids.starts.length === labels + 2 && centroids.dimensions <= dimensions;
  return fits ? { examples, figures, scores, centroids } : null;
}

function decodeCentroids(
  { dimensions, starts }: NonNullable<ScopeHeader["centroids"]>,
  scales: Float32Array | null,
  codes: Uint8Array | null,
): Centroids | null {
  if (scales === null || codes === null || !Array.isArray(starts)) return null;
  if (starts.at(-1) !== scales.length || codes.length !== scales.length * dimensions) return null;
  const signed = new Int8Array(codes.buffer, codes.byteOffset, codes.length);
  return withNorms({ dimensions, starts: Uint16Array.from(starts), scales, codes: signed });
}

function toFloats(bytes: Uint8Array | null): Float32Array | null {
  return bytes === null || bytes.length % 4 !== 0
    ? null
    : new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
}
