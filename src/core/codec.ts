/**
 * Heads as they are stored; blocks of embeddings are in block.ts. Each format starts with a four-byte magic number whose
 * last byte is the version. A decoder returns null for a version that it does not know, and callers treat that as a missing
 * value. Numbers are little-endian.
 *
 *   head   "GHD2" | u32 length of JSON | JSON in ASCII, padded with spaces to a multiple of 4 | weights, bias, conformal f32
 *          "GHD1" is the same without `offset`, which is 0 then
 *          The JSON may have `thresholds` and `value_range`; builds that do not know them predict without
 *          "GHD3" adds `lexical` ({buckets, columns}) to the JSON, and at the end
 *          | idf, scale, scales f32 | seen buckets u16 | lexical weights i8
 *          "GHD4" has the same JSON and the same parts as named sections (sections.ts), and others that a head may have. It
 *          is the last version of its kind: what a head gets from now on is a section, or a field of the JSON.
 *          The section "scope" is in scope-codec.ts. A build that does not know it takes every input to be in scope.
 *          The section "sketch" is in sketch.ts. It explains predictions, which do without it.
 *          `visible_text` in the JSON of any of them: invisible characters are removed before a text's features are
 *          computed.
 */
import type { ValueRange } from "./evaluation/value-range.ts";
import type { Head, LexicalWeights, Task } from "./head.ts";
import { decodeScope, encodeScope } from "./scope-codec.ts";
import { asciiJson, decodeSections, encodeSections, readHeader, type Section, writeHeader } from "./sections.ts";

const HEAD_V1_MAGIC = 0x31444847;
const HEAD_V2_MAGIC = 0x32444847;
const HEAD_V3_MAGIC = 0x33444847;
const HEAD_V4_MAGIC = 0x34444847;

interface HeadHeader {
  task: Task;
  labels: readonly string[];
  dimensions: number;
  offset: number;
  temperature: number;
  out_of_scope_threshold: number | null;
  conformal: number;
  /** One a label, or left out. */
  thresholds?: readonly number[];
  value_range?: ValueRange;
  visible_text?: boolean;
  lexical?: { buckets: number; columns: number };
}

const SCOPE = "scope";

/**
 * A head without further sections is written as "GHD2", or with lexical features as "GHD3", which earlier versions can
 * read. They pass over `visible_text`, and read invisible characters as they always did.
 */
export function encodeHead(head: Head): Uint8Array<ArrayBuffer> {
  const { lexical } = head;
  const header: HeadHeader = {
    task: head.task,
    labels: head.labels,
    dimensions: head.dimensions,
    offset: head.offset,
    temperature: head.temperature,
    out_of_scope_threshold: head.outOfScopeThreshold,
    conformal: head.conformal.length,
    ...(head.thresholds.length === 0 ? {} : { thresholds: head.thresholds }),
    ...(head.valueRange === null ? {} : { value_range: head.valueRange }),
    ...(head.visibleText ? { visible_text: true } : {}),
    ...(lexical === null ? {} : { lexical: { buckets: lexical.buckets, columns: lexical.seenBuckets.length } }),
  };
  const parts = partsOf(head);
  if (head.sections.length > 0 || head.scope !== null) {
    const sections = parts.map(([name, array]) => ({ name, bytes: bytesOf(array), required: true }));
    const scope = head.scope === null ? [] : [{ name: SCOPE, bytes: encodeScope(head.scope), required: false }];
    return encodeSections(HEAD_V4_MAGIC, { header, sections: [...sections, ...scope, ...head.sections] });
  }
  const json = asciiJson(header);
  const size = parts.reduce((sum, [, array]) => sum + array.byteLength, 8 + Math.ceil(json.length / 4) * 4);
  const bytes = new Uint8Array(size);
  let offset = writeHeader(bytes, lexical === null ? HEAD_V2_MAGIC : HEAD_V3_MAGIC, json);
  for (const [, array] of parts) {
    bytes.set(bytesOf(array), offset);
    offset += array.byteLength;
  }
  return bytes;
}

/** The bytes of a head without one of the sections that it can do without; the same bytes if it has none of this name. */
export function withoutSection(bytes: Uint8Array, name: string): Uint8Array {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const magic = aligned.length < 8 ? 0 : new DataView(aligned.buffer, aligned.byteOffset).getUint32(0, true);
  const container = magic === HEAD_V4_MAGIC ? decodeSections(aligned) : null;
  const sections = container?.sections.filter((section) => section.required || section.name !== name) ?? [];
  if (container === null || sections.length === container.sections.length) return bytes;
  return encodeSections(HEAD_V4_MAGIC, { header: container.header, sections });
}

type Part = readonly [name: string, array: Float32Array | Uint16Array | Int8Array];

/** The arrays of a head, in their order. */
function partsOf({ weights, bias, conformal, lexical }: Head): readonly Part[] {
  const parts: Part[] = [
    ["weights", weights],
    ["bias", bias],
    ["conformal", conformal],
  ];
  if (lexical === null) return parts;
  return [
    ...parts,
    ["lexical_idf", lexical.idf],
    ["lexical_scale", Float32Array.of(lexical.scale)],
    ["lexical_scales", lexical.scales],
    ["lexical_seen", lexical.seenBuckets],
    ["lexical_weights", lexical.weights],
  ];
}

function bytesOf(array: Part[1]): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** The head in `bytes`. Null unless they are a complete head of a known version. */
export function decodeHead(bytes: Uint8Array): Head | null {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const magic = aligned.length < 8 ? 0 : new DataView(aligned.buffer, aligned.byteOffset).getUint32(0, true);
  if (magic === HEAD_V4_MAGIC) return decodeSectionedHead(aligned);
  if (magic !== HEAD_V1_MAGIC && magic !== HEAD_V2_MAGIC && magic !== HEAD_V3_MAGIC) return null;
  const read = readHeader(aligned);
  const header = read && checkHeader(read.header, magic === HEAD_V3_MAGIC);
  if (read === null || header === null) return null;
  let offset = read.end;
  const parts = new Map<string, Uint8Array>();
  for (const [name, length] of Object.entries(partLengths(header))) {
    parts.set(name, aligned.subarray(offset, offset + length));
    offset += length;
  }
  if (offset !== aligned.length) return null;
  return toHead(magic === HEAD_V1_MAGIC ? { ...header, offset: 0 } : header, parts, []);
}

function decodeSectionedHead(bytes: Uint8Array): Head | null {
  const container = decodeSections(bytes);
  const header = container && checkHeader(container.header, true);
  if (container === null || header === null) return null;
  const lengths = partLengths(header);
  const parts = new Map<string, Uint8Array>();
  const others: Section[] = [];
  for (const section of container.sections) {
    const length = Object.hasOwn(lengths, section.name) ? lengths[section.name] : undefined;
    if (length === undefined) {
      if (section.required) return null;
      others.push(section);
    } else if (section.bytes.length === length) parts.set(section.name, section.bytes);
  }
  return Object.keys(lengths).every((name) => parts.has(name)) ? toHead(header, parts, others) : null;
}

/** The header, if it can be one. Its numbers may still not fit the bytes. */
function checkHeader(fields: Record<string, unknown>, mayBeLexical: boolean): HeadHeader | null {
  const { lexical, ...header } = fields as unknown as HeadHeader;
  if (!Array.isArray(header.labels) || !hasValidOptions(header)) return null;
  const checked = mayBeLexical && lexical?.buckets ? { ...header, lexical } : header;
  const lengths = Object.values(partLengths(checked));
  return lengths.every((length) => Number.isInteger(length) && length >= 0) ? checked : null;
}

/** The bytes of each part, in their order. */
function partLengths({ task, labels, dimensions, conformal, lexical }: HeadHeader): Record<string, number> {
  const outputs = task === "regression" ? 1 : labels.length;
  const lengths = { weights: 4 * outputs * dimensions, bias: 4 * outputs, conformal: 4 * conformal };
  if (lexical === undefined) return lengths;
  const { columns } = lexical;
  return {
    ...lengths,
    lexical_idf: 4 * columns,
    lexical_scale: 4,
    lexical_scales: 4 * outputs,
    lexical_seen: 2 * columns,
    lexical_weights: columns * outputs,
  };
}

function toHead(header: HeadHeader, parts: ReadonlyMap<string, Uint8Array>, sections: readonly Section[]): Head {
  const part = (name: string) => parts.get(name) ?? new Uint8Array(0);
  const scope = sections.find(({ name }) => name === SCOPE);
  return {
    task: header.task,
    labels: header.labels,
    dimensions: header.dimensions,
    weights: toFloats(part("weights")),
    bias: toFloats(part("bias")),
    conformal: toFloats(part("conformal")),
    lexical: header.lexical === undefined ? null : toLexical(header.lexical.buckets, part),
    visibleText: header.visible_text === true,
    offset: header.offset,
    temperature: header.temperature,
    outOfScopeThreshold: header.out_of_scope_threshold,
    scope: scope === undefined ? null : decodeScope(scope.bytes, header.labels.length, header.dimensions),
    thresholds: header.thresholds ?? [],
    valueRange: header.value_range ?? null,
    sections: sections.filter((section) => section !== scope),
  };
}

function toLexical(buckets: number, part: (name: string) => Uint8Array): LexicalWeights {
  const seen = part("lexical_seen");
  const weights = part("lexical_weights");
  return {
    buckets,
    scale: toFloats(part("lexical_scale"))[0] ?? 1,
    seenBuckets: new Uint16Array(seen.buffer, seen.byteOffset, seen.length / 2),
    idf: toFloats(part("lexical_idf")),
    scales: toFloats(part("lexical_scales")),
    weights: new Int8Array(weights.buffer, weights.byteOffset, weights.length),
  };
}

function toFloats({ buffer, byteOffset, length }: Uint8Array): Float32Array {
  return new Float32Array(buffer, byteOffset, length / 4);
}

function hasValidOptions({ labels, thresholds = [], value_range = [0, 0] }: HeadHeader): boolean {
  if (!Array.isArray(thresholds) || !Array.isArray(value_range)) return false;
  if (thresholds.length > 0 && thresholds.length !== labels.length) return false;
  return value_range.length === 2 && [...thresholds, ...value_range].every(Number.isFinite);
}
