/** Characters are Unicode code points: an emoji is one, where a string's `length` counts two UTF-16 code units. */

const isHighSurrogate = (unit: number) => unit >= 0xd800 && unit <= 0xdbff;
const isLowSurrogate = (unit: number) => unit >= 0xdc00 && unit <= 0xdfff;

export function countCharacters(text: string): number {
  let count = text.length;
  for (let i = 1; i < text.length; i++)
    if (isLowSurrogate(text.charCodeAt(i)) && isHighSurrogate(text.charCodeAt(i - 1))) count--;
  return count;
}

/** Whether a text has more characters than the limit. Counts only where the answer depends on it. */
export function isLongerThan(text: string, limit: number): boolean {
  return text.length > limit && (text.length > 2 * limit || countCharacters(text) > limit);
}

/** A word that is longer than this part of the limit is cut in its middle. */
const LONGEST_WORD = 0.5;

/** The beginning of a text, of at most so many characters, up to the end of a word. */
export function truncateText(text: string, limit: number): string {
  let end = 0;
  for (let count = 0; count < limit && end < text.length; count++)
    end += isHighSurrogate(text.charCodeAt(end)) && isLowSurrogate(text.charCodeAt(end + 1)) ? 2 : 1;
  if (end === text.length) return text;
  const start = Math.floor(end * (1 - LONGEST_WORD));
  // One unit more than fits: where that is white space, the last word is whole.
  const lastSpace = text.slice(start, end + 1).search(/\s\S*$/);
  return text.slice(0, lastSpace < 0 ? end : start + lastSpace).trimEnd();
}
