/** Where a text is not JSON (RFC 8259), which the errors of JSON.parse do not always say. */
import type { Failure } from "../core/failure.ts";

const SPACE = /[ \t\n\r]*/y;
const LITERAL = /true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
/** Control characters must be escaped. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what a string may not have
const PLAIN_CHARACTERS = /[^"\\\u0000-\u001f]*/y;
const ESCAPE = /\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/y;

/** What may come next: a value, or also the end of a list or an object that has just begun; or what follows a value. */
type State = "value" | "first value" | "key" | "first key" | "after value";

/** The offset of the first character that no JSON has there; the text's length if it ends too soon. */
export function findJsonError(text: string): number {
  let offset = 0;
  const read = (pattern: RegExp): boolean => {
    pattern.lastIndex = offset;
    const isFound = pattern.test(text);
    if (isFound) offset = pattern.lastIndex;
    return isFound;
  };
  const readString = (): boolean => {
    offset += 1;
    do read(PLAIN_CHARACTERS);
    while (read(ESCAPE));
    if (text[offset] !== '"') return false;
    offset += 1;
    return true;
  };
  const closers: ("]" | "}")[] = [];
  let state: State = "value";
  for (;;) {
    read(SPACE);
    const character = text[offset];
    const isClosed = state !== "value" && state !== "key" && character === closers.at(-1);
    if (character === undefined) return offset;
    if (isClosed) {
      closers.pop();
      offset += 1;
      state = "after value";
    } else if (state === "after value") {
      if (character !== "," || closers.length === 0) return offset;
      offset += 1;
      state = closers.at(-1) === "}" ? "key" : "value";
    } else if (state === "key" || state === "first key") {
      if (character !== '"' || !readString()) return offset;
      read(SPACE);
      if (text[offset] !== ":") return offset;
      offset += 1;
      state = "value";
    } else if (character === "{" || character === "[") {
      closers.push(character === "{" ? "}" : "]");
      offset += 1;
      state = character === "{" ? "first key" : "first value";
    } else {
      if (!(character === '"' ? readString() : read(LITERAL))) return offset;
      state = "after value";
    }
  }
}

/** Why a text that JSON.parse refuses is not JSON, and where. */
export function invalidJson(text: string): Failure {
  const offset = findJsonError(text);
  const linesBefore = text.slice(0, offset).split("\n");
  const position = `line ${linesBefore.length}, column ${(linesBefore.at(-1)?.length ?? 0) + 1}`;
  const where = offset === text.length ? `it ends too soon, at ${position}` : `it breaks off at ${position}`;
  return { code: "invalid_json", message: `The body is not valid JSON: ${where}. Check quotes, commas and brackets.` };
}
