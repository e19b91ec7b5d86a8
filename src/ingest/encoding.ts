/** Passes files of any encoding on as UTF-8, without a byte order mark, while they are read. */
import { isAscii, isUtf8 } from "node:buffer";
import type { Encoding } from "../api/imports.ts";

const BYTE_ORDER_MARKS: readonly (readonly [Encoding, readonly number[]])[] = [
  ["utf-8", [0xef, 0xbb, 0xbf]],
  ["utf-16le", [0xff, 0xfe]],
  ["utf-16be", [0xfe, 0xff]],
];

export interface EncodingOptions {
  /** Null: it is detected. */
  readonly encoding: Encoding | null;
  /** What bytes are that are no UTF-8. */
  readonly fallback: "windows-1252" | "utf-8";
  /** Called when the encoding is known. A file of ASCII alone is UTF-8 until its end. */
  readonly onDetect: (encoding: Encoding) => void;
}

/**
 * The bytes of a file as UTF-8. A byte order mark tells the encoding, and else the first bytes beyond ASCII do, wherever
 * they are: UTF-8 if most of them form its characters, as even a damaged file's do and those of another encoding do not.
 * Bytes of a file in UTF-8 that are not valid are passed on, so that only their line is refused.
 */
export async function* toUtf8(
  chunks: AsyncIterable<Uint8Array>,
  { encoding, fallback, onDetect }: EncodingOptions,
): AsyncGenerator<Uint8Array> {
  let decode: Decoder | null = null;
  let isStart = true;
  /** The first bytes of a character of which the others come with the next chunk. */
  let rest: Uint8Array = new Uint8Array(0);
  const decide = (detected: Encoding) => {
    onDetect(detected);
    decode = createDecoder(detected);
  };
  for await (const chunk of chunks) {
    let bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    rest = new Uint8Array(0);
    if (isStart) {
      isStart = false;
      const mark = findByteOrderMark(bytes);
      const declared = encoding ?? mark?.[0] ?? null;
      if (declared !== null) decide(declared);
      if (mark?.[0] === declared) bytes = bytes.subarray(mark?.[1].length);
    }
    if (decode === null && !isAscii(bytes)) {
      const end = completeLength(bytes);
      const detected = detectEncoding(bytes.subarray(0, end), fallback);
      if (detected !== null) decide(detected);
      else {
        rest = bytes.subarray(end);
        bytes = bytes.subarray(0, end);
      }
    }
    yield (decode as Decoder | null)?.(bytes, false) ?? bytes;
  }
  if (rest.length > 0) decide(fallback);
  yield (decode as Decoder | null)?.(rest, true) ?? rest;
}

function findByteOrderMark(bytes: Uint8Array) {
  return BYTE_ORDER_MARKS.find(([, mark]) => mark.every((byte, i) => bytes[i] === byte));
}

type Decoder = (bytes: Uint8Array, isLast: boolean) => Uint8Array;

function createDecoder(encoding: Encoding): Decoder {
  if (encoding === "utf-8") return (bytes) => bytes;
  // The mark was taken off.
  const decoder = new TextDecoder(encoding, { fatal: false, ignoreBOM: true });
  return (bytes, isLast) => Buffer.from(decoder.decode(bytes, { stream: !isLast }));
}

/** The encoding of bytes beyond ASCII; null if there are none. Fewer bytes that fit UTF-8 than not: it is another. */
function detectEncoding(bytes: Uint8Array, fallback: EncodingOptions["fallback"]): Encoding | null {
  if (isAscii(bytes)) return null;
  if (isUtf8(bytes)) return "utf-8";
  let [valid, invalid] = [0, 0];
  for (let i = 0; i < bytes.length; i++) {
    if ((bytes[i] as number) < 0x80) continue;
    const length = characterLength(bytes[i] as number);
    if (length > 1 && isUtf8(bytes.subarray(i, i + length))) {
      valid++;
      i += length - 1;
    } else invalid++;
  }
  return valid >= invalid ? "utf-8" : fallback;
}

/** How many bytes a character of UTF-8 has that begins with this byte; 0 if none does. */
function characterLength(first: number): number {
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first < 0xe0) return 2;
  if (first >= 0xe0 && first < 0xf0) return 3;
  return first >= 0xf0 && first < 0xf5 ? 4 : 0;
}

/** The length without a character of UTF-8 that is cut off at the end. */
function completeLength(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const length = characterLength(bytes[bytes.length - back] as number);
    if (length > 0) return length > back ? bytes.length - back : bytes.length;
  }
  return bytes.length;
}
