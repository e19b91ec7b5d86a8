/**
 * A container of a header in JSON and named sections of bytes:
 *
 *   4 bytes that name the format | u32 length of JSON | JSON in ASCII, padded with spaces to a multiple of 4
 *   | sections in the order of the header's `sections`: [name, bytes, required], each padded to a multiple of 4
 *
 * A reader passes over a section that it does not know, unless it is required. Numbers are little-endian.
 */

export interface Section {
  readonly name: string;
  readonly bytes: Uint8Array;
  /** Whether a reader that does not know it must refuse the whole. */
  readonly required: boolean;
}

export interface Container<T> {
  readonly header: T;
  readonly sections: readonly Section[];
}

const PREFIX_BYTES = 8;
const pad = (length: number) => Math.ceil(length / 4) * 4;

export function encodeSections(magic: number, { header, sections }: Container<object>): Uint8Array<ArrayBuffer> {
  const list = sections.map(({ name, bytes, required }) => [name, bytes.length, required]);
  const json = asciiJson({ ...header, sections: list });
  const size = sections.reduce((sum, { bytes }) => sum + pad(bytes.length), PREFIX_BYTES + pad(json.length));
  const encoded = new Uint8Array(size);
  let offset = writeHeader(encoded, magic, json);
  for (const { bytes } of sections) {
    encoded.set(bytes, offset);
    offset += pad(bytes.length);
  }
  return encoded;
}

/** Writes the prefix and the header. Returns where they end. */
export function writeHeader(encoded: Uint8Array, magic: number, json: string): number {
  const view = new DataView(encoded.buffer, encoded.byteOffset);
  const length = pad(json.length);
  view.setUint32(0, magic, true);
  view.setUint32(4, length, true);
  encoded.fill(0x20, PREFIX_BYTES, PREFIX_BYTES + length);
  for (let i = 0; i < json.length; i++) encoded[PREFIX_BYTES + i] = json.charCodeAt(i);
  return PREFIX_BYTES + length;
}

/** The sections are views of `bytes`, which must lie at a multiple of 4. Null unless they are complete. */
export function decodeSections(bytes: Uint8Array): Container<Record<string, unknown>> | null {
  const read = readHeader(bytes);
  if (read === null || !Array.isArray(read.header.sections)) return null;
  const sections: Section[] = [];
  let offset = read.end;
  for (const entry of read.header.sections as unknown[]) {
    const [name, length, required] = Array.isArray(entry) ? (entry as unknown[]) : [];
    if (typeof name !== "string" || typeof required !== "boolean" || !Number.isInteger(length)) return null;
    const end = offset + (length as number);
    if (end < offset || end > bytes.length) return null;
    sections.push({ name, bytes: bytes.subarray(offset, end), required });
    offset = pad(end);
  }
  return offset === bytes.length ? { header: read.header, sections } : null;
}

/** The header, and where it ends. Null if the bytes end before that, or if it is no JSON object. */
export function readHeader(
  bytes: Uint8Array,
): { readonly header: Record<string, unknown>; readonly end: number } | null {
  if (bytes.length < PREFIX_BYTES) return null;
  const end = PREFIX_BYTES + new DataView(bytes.buffer, bytes.byteOffset).getUint32(4, true);
  if (end > bytes.length) return null;
  let json = "";
  for (const byte of bytes.subarray(PREFIX_BYTES, end)) json += String.fromCharCode(byte);
  try {
    const header: unknown = JSON.parse(json);
    return typeof header === "object" && header !== null ? { header: header as Record<string, unknown>, end } : null;
  } catch {
    return null;
  }
}

export function asciiJson(value: unknown): string {
  return JSON.stringify(value).replace(
    /[\u0080-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
