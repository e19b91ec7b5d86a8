/** The lines of a body as it comes, each of bounded size. */
import { isUtf8 } from "node:buffer";
import { limits } from "../core/limits.ts";

export interface Line {
  /** Without the break that ends it; null where it is longer than a line may be, and was dropped as it came. */
  readonly text: string | null;
  readonly lineBreak: "\n" | "\r\n" | "\r" | "";
  readonly bytes: number;
  /** Where it is not, the text has U+FFFD in place of what could not be read. */
  readonly utf8: boolean;
}

const [LF, CR] = [10, 13];

/**
 * Splits at `\n` alone, or at each of `\n`, `\r\n` and `\r`, also where a chunk ends between the two. Gives the lines of
 * each chunk together, to be read before the next: waiting for each of millions would take longer than reading it.
 */
export async function* lines(
  body: AsyncIterable<Uint8Array>,
  splitAt: "\n" | "any",
): AsyncGenerator<Iterable<Line>, void> {
  let kept: Uint8Array[] = [];
  let bytes = 0;
  let afterCr = false;
  const keep = (part: Uint8Array) => {
    bytes += part.length;
    if (bytes <= limits.import_line_bytes) kept.push(part);
    else kept = [];
  };
  const take = (lineBreak: Line["lineBreak"]): Line => {
    if (bytes === 0) return { text: "", lineBreak, bytes, utf8: true };
    const whole = bytes > limits.import_line_bytes ? null : Buffer.concat(kept);
    const text = whole?.toString("utf8") ?? null;
    // Only where there is a U+FFFD may something have been replaced by it.
    const utf8 = !text?.includes("\ufffd") || isUtf8(whole as Buffer);
    const line = { text, lineBreak, bytes, utf8 };
    kept = [];
    bytes = 0;
    return line;
  };
  function* split(chunk: Uint8Array): Generator<Line> {
    let start = 0;
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at];
      if (afterCr) {
        afterCr = false;
        if (byte === LF) {
          start = at + 1;
          yield take("\r\n");
          continue;
        }
        yield take("\r");
      }
      if (byte !== LF && (byte !== CR || splitAt === "\n")) continue;
      if (at > start) keep(chunk.subarray(start, at));
      start = at + 1;
      if (byte === LF) yield take("\n");
      else afterCr = true;
    }
    if (start < chunk.length) keep(chunk.subarray(start));
  }
  function* last(): Generator<Line> {
    if (afterCr) yield take("\r");
    else if (bytes > 0) yield take("");
  }
  for await (const chunk of body) yield split(chunk);
  yield last();
}
