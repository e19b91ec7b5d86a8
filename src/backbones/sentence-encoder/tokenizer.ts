/**
 * Sub-words by a unigram language model: of all ways to cut a text into pieces of the vocabulary, the one with the highest
 * sum of log probabilities (Viterbi; Kudo 2018, "Subword Regularization"). Spaces are the character "▁", and white space in
 * a row is one.
 */

const SPACE = "\u2581";
const UNKNOWN = 0;
/** The first lines of a vocabulary, which are no pieces of texts. */
const RESERVED_LINES = 6;
/** What is read of a text, in UTF-16 code units. It has more pieces than an encoder takes. */
export const MAX_CHARACTERS = 1024;

interface Piece {
  readonly id: number;
  readonly score: number;
}

/**
 * A tokenizer of a vocabulary: a piece and its log probability a line, separated by a tab. A piece's id is its line, from 0.
 * It answers the ids of a text's pieces; characters in a row that no piece has are one unknown piece. The first call reads
 * the vocabulary.
 */
export function unigramTokenizer(vocabulary: string): (text: string) => number[] {
  let pieces: ReadonlyMap<string, Piece> | undefined;
  return (text) => {
    const normalised = text.slice(0, MAX_CHARACTERS).normalize("NFKC").slice(0, MAX_CHARACTERS).trim();
    if (normalised === "") return [];
    pieces ??= readPieces(vocabulary);
    return cut([...(SPACE + normalised.replaceAll(/\s+/gu, SPACE))], pieces);
  };
}

function readPieces(vocabulary: string): Map<string, Piece> {
  const pieces = new Map<string, Piece>();
  for (const [id, line] of vocabulary.trimEnd().split("\n").entries()) {
    const [piece = "", score] = line.split("\t");
    if (id >= RESERVED_LINES) pieces.set(piece, { id, score: Number(score) });
  }
  return pieces;
}

/** The longest piece, in characters. */
const MAX_PIECE = 16;

function cut(characters: readonly string[], pieces: ReadonlyMap<string, Piece>): number[] {
  const count = characters.length;
  // Of the best way to cut the first `end` characters: its score, and the id and length of its last piece.
  const scores = new Float64Array(count + 1);
  const ids = new Int32Array(count + 1).fill(UNKNOWN);
  const lengths = new Int32Array(count + 1).fill(1);
  for (let end = 1; end <= count; end++) {
    let text = "";
    for (let length = 1; length <= Math.min(MAX_PIECE, end); length++) {
      text = characters[end - length] + text;
      const piece = pieces.get(text);
      if (piece === undefined) continue;
      const score = piece.score + (scores[end - length] ?? 0);
      if (ids[end] !== UNKNOWN && score < (scores[end] ?? 0)) continue;
      scores[end] = score;
      ids[end] = piece.id;
      lengths[end] = length;
    }
  }
  const tokens: number[] = [];
  for (let end = count; end > 0; end -= lengths[end] ?? 1) {
    const id = ids[end] ?? UNKNOWN;
    if (id !== UNKNOWN || tokens.at(-1) !== UNKNOWN) tokens.push(id);
  }
  return tokens.reverse();
}
