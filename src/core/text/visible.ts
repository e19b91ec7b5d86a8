/** Characters of a text that nobody sees. They are removed, as they would divide words: "par\u00adcel" reads "parcel". */

/** ASCII has none. */
const ASCII = /^[\0-\x7f]*$/;
/**
 * Soft hyphens, zero-width spaces and joiners, marks of direction and other characters that Unicode says to show as
 * nothing. What joins an emoji, and the tags of a flag, are a part of it and stay.
 */
const INVISIBLE =
  /((?:\p{Extended_Pictographic}|\p{Emoji_Modifier})[\u200d\ufe0f]+|\u{1f3f4}[\u{e0020}-\u{e007e}]+\u{e007f})|\p{Default_Ignorable_Code_Point}+/gu;

/** A text as it is read for features. What is stored and compared is the text itself. */
export function visibleText(text: string): string {
  return ASCII.test(text) ? text : text.replace(INVISIBLE, "$1");
}

const VISIBLE = /[^\s\p{Default_Ignorable_Code_Point}]/u;

/** Whether a text has only white space and invisible characters. Reads it up to the first other one. */
export function isBlank(text: string): boolean {
  return !VISIBLE.test(text);
}
