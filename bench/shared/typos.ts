/** Deletes, inserts, replaces or swaps a letter in one of a text's words, in one of four letters or more if there is one. */
export function addTypo(text: string, random: () => number): string {
  const words = [...text.matchAll(/\p{L}+/gu)];
  const long = words.filter(([word]) => word.length >= 4);
  const candidates = long.length > 0 ? long : words;
  const match = candidates[Math.floor(random() * candidates.length)];
  if (match === undefined) return text;
  const [word] = match;
  const position = Math.floor(random() * word.length);
  const letter = String.fromCharCode(97 + Math.floor(26 * random()));
  const edits = [
    word.slice(0, position) + word.slice(position + 1),
    word.slice(0, position) + letter + word.slice(position),
    word.slice(0, position) + letter + word.slice(position + 1),
    word.slice(0, position) +
      word
        .slice(position, position + 2)
        .split("")
        .reverse()
        .join("") +
      word.slice(position + 2),
  ];
  const edited = edits[Math.floor(random() * edits.length)] ?? word;
  return text.slice(0, match.index) + edited + text.slice(match.index + word.length);
}
