/** Reads the elements of one JSON array as a stream, each of bounded size. */
import { isUtf8 } from "node:buffer";
import { limits } from "../core/limits.ts";
import { bodyError } from "./body.ts";

export interface Element {
  /** Its JSON, unchecked; null if it is too long. */
  readonly text: string | null;
  readonly utf8: boolean;
}

const [QUOTE, BACKSLASH, COMMA, OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [34, 92, 44, 91, 93, 123, 125];
const isSpace = (byte: number) => byte === 32 || byte === 10 || byte === 13 || byte === 9;

const notAList = () => bodyError("invalid_json", "The body is not one JSON array. Check its brackets and commas.");

/** Yields the elements of each chunk together. The caller reads them before it asks for the next. */
export async function* jsonElements(body: AsyncIterable<Uint8Array>): AsyncGenerator<Iterable<Element>, void> {
  let depth = 0;
  let inString = false;
  let isEscaped = false;
  let isEnded = false;
  let isEmpty = true;
  let parts: Uint8Array[] = [];
  let bytes = 0;
  const append = (part: Uint8Array) => {
    bytes += part.length;
    if (bytes <= limits.import_line_bytes) parts.push(part);
    else parts = [];
  };
  const endElement = (): Element => {
    const element = bytes > limits.import_line_bytes ? null : Buffer.concat(parts);
    const text = element?.toString("utf8") ?? null;
    parts = [];
    bytes = 0;
    isEmpty = true;
    // Invalid bytes become U+FFFD, so a text without it was valid.
    return { text, utf8: !text?.includes("\ufffd") || isUtf8(element ?? new Uint8Array(0)) };
  };
  function* split(chunk: Uint8Array): Generator<Element> {
    let start = 0;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i] as number;
      if (inString) {
        if (isEscaped) isEscaped = false;
        else if (byte === BACKSLASH) isEscaped = true;
        else if (byte === QUOTE) inString = false;
        continue;
      }
      if (isSpace(byte)) continue;
      if (isEnded || (depth === 0 && byte !== OPEN_LIST)) throw notAList();
      if (depth === 1 && (byte === COMMA || byte === CLOSE_LIST)) {
        if (i > start) append(chunk.subarray(start, i));
        start = i + 1;
        const isLast = byte === CLOSE_LIST;
        if (!(isLast && isEmpty)) yield endElement();
        else if (isLast) [parts, bytes] = [[], 0];
        if (isLast) [depth, isEnded] = [0, true];
        continue;
      }
      if (depth === 0) start = i + 1;
      else isEmpty = false;
      if (byte === QUOTE) inString = true;
      else if (byte === OPEN_LIST || byte === OPEN_OBJECT) depth++;
      else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) depth--;
    }
    if (depth > 0 && start < chunk.length) append(chunk.subarray(start));
  }
  for await (const chunk of body) yield split(chunk);
  if (!isEnded) throw notAList();
}
