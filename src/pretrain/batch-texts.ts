/** The probability that a word of the vocabulary loses its own row for a step, so that its n-grams learn to replace it. */
const ROW_DROPOUT = 0.25;

export interface TextLists {
  readonly textCount: number;
  /** The words of text i are `textWords` from `textStarts[i]` to `textStarts[i + 1]`, as indices of `distinctWords`. */
  readonly textStarts: Int32Array;
  readonly textWords: Int32Array;
  /** The batch's distinct words, by their number in the corpus. The first `distinctCount` entries are valid. */
  readonly distinctWords: Int32Array;
  readonly distinctCount: number;
  /** 1 for each distinct word without its own row in this step. It has no effect on a word that has none at all. */
  readonly rowDropped: Uint8Array;
}

/** Collects a batch's texts word by word, in memory that every batch uses again. */
export class BatchTexts {
  readonly #textStarts: Int32Array;
  readonly #textWords: Int32Array;
  readonly #distinctWords: Int32Array;
  readonly #rowDropped: Uint8Array;
  /** The index in `distinctWords` of each word of the corpus; valid if the word's stamp is the batch's. */
  readonly #wordIndex: Int32Array;
  readonly #stamps: Int32Array;
  #stamp = 0;
  #textCount = 0;
  #length = 0;
  #distinctCount = 0;
  #random: () => number = () => 1;

  /** Room for so many texts, words and distinct words, out of `corpusWords` different ones. */
  constructor(texts: number, words: number, distinctWords: number, corpusWords: number) {
    this.#textStarts = new Int32Array(texts + 1);
    this.#textWords = new Int32Array(words);
    this.#distinctWords = new Int32Array(distinctWords);
    this.#rowDropped = new Uint8Array(distinctWords);
    this.#wordIndex = new Int32Array(corpusWords);
    this.#stamps = new Int32Array(corpusWords);
  }

  begin(random: () => number): void {
    this.#random = random;
    this.#stamp++;
    this.#textCount = 0;
    this.#length = 0;
    this.#distinctCount = 0;
  }

  /** Adds a word to the current text. */
  addWord(word: number): void {
    if (this.#stamps[word] !== this.#stamp) {
      this.#stamps[word] = this.#stamp;
      this.#wordIndex[word] = this.#distinctCount;
      this.#rowDropped[this.#distinctCount] = this.#random() < ROW_DROPOUT ? 1 : 0;
      this.#distinctWords[this.#distinctCount++] = word;
    }
    this.#textWords[this.#length++] = this.#wordIndex[word] as number;
  }

  endText(): void {
    this.#textStarts[++this.#textCount] = this.#length;
  }

  /** The lists of the texts so far. They are valid until `begin`. */
  lists(): TextLists {
    return {
      textCount: this.#textCount,
      textStarts: this.#textStarts,
      textWords: this.#textWords,
      distinctWords: this.#distinctWords,
      distinctCount: this.#distinctCount,
      rowDropped: this.#rowDropped,
    };
  }
}
