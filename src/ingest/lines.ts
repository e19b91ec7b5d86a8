/** Reads the lines of a body as a stream, each of bounded size. */
import { isUtf8 } from "node:buffer";
import { limits } from "../core/limits.ts";

export interface Line {
  /** Without its line break. null if the line is too long; its bytes are dropped as they come. */
  readonly text: string | null;
  readonly lineBreak: "\n" | "\r\n" | "\r" | "";
  readonly bytes: number;
  /** Whether the line is valid UTF-8. If not, the text has U+FFFD in the place of invalid bytes. */
  readonly utf8: boolean;
}

const [LF, CR] = [10, 13];

/**
 * Splits at `\n` alone, or at each of `\n`, `\r\n` and `\r`, also where a chunk ends between the two. Yields the lines of
 * each chunk together, because one `await` for each of millions of lines would take longer than reading them. The caller
 * reads them before it asks for the next chunk.
 */
export async function* splitLines(
  body: AsyncIterable<Uint8Array>,
  separator: "\n" | "any",
): AsyncGenerator<Iterable<Line>, void> {
  let parts: Uint8Array[] = [];
  let bytes = 0;
  let afterCr = false;
  const append = (part: Uint8Array) => {
    bytes += part.length;
    if (bytes <= limits.import_line_bytes) parts.push(part);
    else parts = [];
  };
  const endLine = (lineBreak: Line["lineBreak"]): Line => {
    if (bytes === 0) return { text: "", lineBreak, bytes, utf8: true };
    const lineBytes = bytes > limits.import_line_bytes ? null : Buffer.concat(parts);
    const text = lineBytes?.toString("utf8") ?? null;
    // Invalid bytes become U+FFFD, so a text without it was valid.
    const utf8 = !text?.includes("\ufffd") || isUtf8(lineBytes as Buffer);
    const line = { text, lineBreak, bytes, utf8 };
    parts = [];
    bytes = 0;
    return line;
  };
  function* split(chunk: Uint8Array): Generator<Line> {
    let start = 0;
    for (let index = 0; index < chunk.length; index++) {
      const byte = chunk[index];
      if (afterCr) {
        afterCr = false;
        if (byte === LF) {
          start = index + 1;
          yield endLine("\r\n");
          continue;
        }
        yield endLine("\r");
      }
      if (byte !== LF && (byte !== CR || separator === "\n")) continue;
      if (index > start) append(chunk.subarray(start, index));
      start = index + 1;
      if (byte === LF) yield endLine("\n");
      else afterCr = true;
    }
    if (start < chunk.length) append(chunk.subarray(start));
  }
  function* flush(): Generator<Line> {
    if (afterCr) yield endLine("\r");
    else if (bytes > 0) yield endLine("");
  }
  for await (const chunk of body) yield split(chunk);
  yield flush();
}
