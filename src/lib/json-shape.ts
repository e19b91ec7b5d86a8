/** Where the values of a JSON text begin and end, without parsing it: in linear time, and without allocating. */

const [QUOTE, BACKSLASH, COMMA, COLON] = [0x22, 0x5c, 0x2c, 0x3a];
const [OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

const isOpening = (code: number) => code === OPEN_ARRAY || code === OPEN_OBJECT;
const isClosing = (code: number) => code === CLOSE_ARRAY || code === CLOSE_OBJECT;

export interface JsonShape {
  /** Levels of arrays and objects in each other. */
  readonly depth: number;
  /** Arrays, objects, and the fields of objects. */
  readonly nodes: number;
  /** The most elements of an array or fields of an object, and at least 1. Of the first 256 levels. */
  readonly longest: number;
}

const commas = new Uint32Array(256);

/** What a JSON text holds. Of a text that is not JSON the figures mean nothing. */
export function measureJson(text: string): JsonShape {
  let [level, depth, nodes, longest] = [0, 0, 0, 1];
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === QUOTE) i = endOfString(text, i);
    else if (code === COMMA) {
      const count = (commas[level] ?? 0) + 1;
      commas[level] = count;
      longest = Math.max(longest, count + 1);
    } else if (code === COLON) nodes++;
    else if (isOpening(code)) {
      nodes++;
      level++;
      depth = Math.max(depth, level);
      commas[level] = 0;
    } else if (isClosing(code)) level--;
  }
  return { depth, nodes, longest };
}

/** The index of the quote that ends the string which begins at `start`, or the text's length. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let backslashes = 0;
    while (text.charCodeAt(end - 1 - backslashes) === BACKSLASH) backslashes++;
    if (backslashes % 2 === 0) return end;
  }
  return text.length;
}

/** A part of a text: from `start` to before `end`. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** The array that a field of a JSON object has, brackets included; null if the field has no array. */
export function findArray(text: string, field: string): Span | null {
  let [level, start] = [0, -1];
  let lastString: Span = { start: 0, end: 0 };
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === QUOTE) {
      const end = endOfString(text, i);
      if (level === 1) lastString = { start: i, end: end + 1 };
      i = end;
    } else if (code === COLON && level === 1) {
      // Of equal fields, the last counts.
      if (isString(text.slice(lastString.start, lastString.end), field)) start = skipSpace(text, i + 1);
    } else if (isOpening(code)) level++;
    else if (isClosing(code)) level--;
  }
  if (start < 0 || text.charCodeAt(start) !== OPEN_ARRAY) return null;
  const elements = arrayElements(text, start);
  for (;;) {
    const { done, value } = elements.next();
    if (done) return value === null ? null : { start, end: value };
  }
}

/** The elements of the array at `start`, as they stand between its commas. Returns the array's end, or null if it has none. */
export function* arrayElements(text: string, start: number): Generator<Span, number | null> {
  let level = 0;
  let elementStart = start + 1;
  for (let i = elementStart; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === QUOTE) i = endOfString(text, i);
    else if (isOpening(code)) level++;
    else if (isClosing(code) && level > 0) level--;
    else if (isClosing(code)) {
      if (code !== CLOSE_ARRAY) return null;
      const isEmpty = elementStart === start + 1 && skipSpace(text, elementStart) === i;
      if (!isEmpty) yield { start: elementStart, end: i };
      return i + 1;
    } else if (code === COMMA && level === 0) {
      yield { start: elementStart, end: i };
      elementStart = i + 1;
    }
  }
  return null;
}

/** Whether a JSON string, escapes and all, stands for a value. */
function isString(json: string, value: string): boolean {
  if (!json.includes("\\")) return json === `"${value}"`;
  try {
    return JSON.parse(json) === value;
  } catch {
    return false;
  }
}

/** The index of the first character from `start` on that is no space between JSON values (RFC 8259, section 2). */
function skipSpace(text: string, start: number): number {
  let i = start;
  while (" \t\n\r".includes(text.charAt(i)) && i < text.length) i++;
  return i;
}
