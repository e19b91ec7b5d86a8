import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, describe, expect, it } from "vitest";
import { quantise } from "../../src/backbones/quantise.ts";
import { forEachSubword } from "../../src/backbones/subwords.ts";
import { encode, readTable } from "../../src/backbones/text-static.ts";
import { seededRandom } from "../../src/core/random.ts";
import { splitWords } from "../../src/core/text/words.ts";
import { UsageError } from "../../src/lib/usage-error.ts";
import { BATCH_SIZE, type Batch, makeBatcher } from "../../src/pretrain/batch.ts";
import { type Corpus, readCorpus } from "../../src/pretrain/corpus.ts";
import { foldNgrams } from "../../src/pretrain/fold.ts";
import type { SourceGroup } from "../../src/pretrain/sources.ts";
import { removeFolder, restrictKinds, shape, smallCorpus, writeFolder } from "./pretrain-data.ts";

const corpus = smallCorpus();
const folders: string[] = [];
afterAll(() => folders.forEach(removeFolder));

function writeFiles(files: Readonly<Record<string, readonly string[]>>): string {
  const folder = writeFolder(files);
  folders.push(folder);
  return folder;
}

const makeGroup = (kind: SourceGroup["kind"], file: string): SourceGroup => ({
  ...{ name: `of ${file}`, kind, weight: 1, power: 1, files: [file] },
});

function readGroups(folder: string, sourceGroups: readonly SourceGroup[], vocabulary: number): Corpus {
  return readCorpus(folder, sourceGroups, { ...shape, vocabulary }, () => undefined);
}

/** List i of lists. */
function listMembers({ starts, members }: Corpus["texts"], i: number): number[] {
  return Array.from(members.subarray(starts[i], starts[i + 1]));
}

describe("a corpus", () => {
  it("has words as the rows of the formula: their own if they are frequent, and their n-grams'", () => {
    const folder = writeFiles({ "a.txt": ["Cat cat DOG 12", "cat dog 77 bird", "dog cat"] });
    const { vocabulary, wordRows, wordFactors, texts } = readGroups(folder, [makeGroup("adjacent", "a.txt")], 2);
    // Four cats and three dogs; "12" and "77" are one word, of which there are two.
    expect(vocabulary).toEqual(["cat", "dog"]);
    expect([0, 1, 2].map((text) => listMembers(texts, text))).toEqual([
      [0, 0, 1, 2],
      [0, 1, 2, 3],
      [1, 0],
    ]);
    ["cat", "dog", "<n2>", "bird"].forEach((word, i) => {
      const grams: number[] = [];
      forEachSubword(word, shape.buckets, (bucket) => grams.push(2 + bucket));
      const ownGrams = i < 2 ? [i] : [];
      expect(listMembers(wordRows, i)).toEqual([...ownGrams, ...grams]);
      const factors = Array.from(wordFactors.subarray(wordRows.starts[i], wordRows.starts[i + 1]));
      const factor = Math.fround(1 / Math.sqrt(grams.length));
      expect(factors).toEqual([...ownGrams.map(() => 1), ...grams.map(() => factor)]);
    });
  });

  it("has equal texts once, and the sources' sides in their order", () => {
    const folder = writeFiles({ "p.tsv": ["a b\tc", "c\ta b", "\tno left side", "no right side", "a b\td\tignored"] });
    const { texts, sources } = readGroups(folder, [makeGroup("pairs", "p.tsv"), makeGroup("adjacent", "p.tsv")], 2);
    expect(texts.starts.length - 1).toBe(3);
    expect(sources[0]).toMatchObject({ left: Int32Array.of(0, 1, 0), right: Int32Array.of(1, 0, 2), share: 0.5 });
    expect(sources[1]).toMatchObject({ left: Int32Array.of(0, 1), right: Int32Array.of(1, 0) });
  });

  it("deals no text of fewer than six words into halves, and cuts texts after 48 words", () => {
    const long = Array.from({ length: 60 }, (_, i) => String.fromCharCode(0x4e00 + i)).join("");
    const spaced = Array.from(long).join(" ");
    const folder = writeFiles({ "h.txt": ["one two three four five", "one two three four five six", spaced] });
    const { texts, sources } = readGroups(folder, [makeGroup("halves", "h.txt")], 2);
    expect(sources[0]?.left).toEqual(Int32Array.of(0, 1));
    expect([0, 1].map((text) => listMembers(texts, text).length)).toEqual([6, 48]);
  });

  it("reads classes of lines and of CSV files, some texts with several", () => {
    const [lines, csv] = corpus.sources.filter(({ kind }) => kind === "labelled");
    expect(lines?.classes).toBe(5);
    expect(lines?.left.length).toBe(80);
    expect(csv?.classes).toBe(11);
    expect(csv?.left.length).toBe(50);
    for (const source of [lines, csv]) {
      expect(source?.labels.starts.length).toBe((source?.left.length ?? 0) + 1);
      expect(Math.max(...(source?.labels.members ?? []))).toBe((source?.classes ?? 0) - 1);
    }
  });

  it("shares each group's weight among its sources, by a power of their sizes", () => {
    const expectedShare = (part: number) => part / 5;
    const shares = [
      expectedShare(1 / 3),
      expectedShare(2 / 3),
      expectedShare(1),
      expectedShare(2),
      expectedShare(80 / 130),
      expectedShare(50 / 130),
    ];
    corpus.sources.forEach((source, i) => {
      expect(source.share).toBeCloseTo(shares[i] as number, 12);
    });
  });

  it("tells what is wrong with the data in one line", () => {
    const folder = writeFiles({ "a.txt": ["one two"], "empty.txt": [] });
    writeFileSync(join(folder, "broken.txt.gz"), "no gzip");
    writeFileSync(join(folder, "half.txt.gz"), gzipSync("some text").subarray(0, 20));
    const expectInvalid = (file: string, kind: SourceGroup["kind"] = "adjacent") => {
      try {
        readGroups(folder, [makeGroup(kind, file)], 3);
        return "";
      } catch (error) {
        expect(error).toBeInstanceOf(UsageError);
        return (error as Error).message;
      }
    };
    expect(expectInvalid("none.txt")).toMatch(
      /none\.txt\.gz' is missing: models\/text-static-1\/CARD\.md lists the data\.$/,
    );
    expect(expectInvalid("broken.txt")).toMatch(/broken\.txt\.gz' cannot be read: incorrect header check$/);
    expect(expectInvalid("half.txt")).toMatch(/half\.txt\.gz' cannot be read: unexpected end of file$/);
    expect(expectInvalid("empty.txt")).toBe("The sources of 'of empty.txt' have no text to train on.");
    expect(expectInvalid("a.txt", "halves")).toBe("The sources of 'of a.txt' have no text to train on.");
    expect(expectInvalid("a.txt", "pairs")).toBe("There are 2 kinds of words, fewer than the vocabulary's 3 rows.");
  });
});

/** The words of text i, as the corpus numbers them. */
function wordsOf({ textStarts, textWords, distinctWords }: Batch, i: number): number[] {
  return Array.from(
    textWords.subarray(textStarts[i], textStarts[i + 1]),
    (position) => distinctWords[position] as number,
  );
}

const sorted = (numbers: readonly number[]) => numbers.toSorted((a, b) => a - b);

describe("batches", () => {
  const make = makeBatcher(corpus, 7);
  const snapshot = (batch: Batch) => ({
    name: batch.source.name,
    masked: batch.maskedPairs,
    words: Array.from({ length: batch.textCount }, (_, i) => wordsOf(batch, i)),
    targets: batch.source.kind === "labelled" ? batch.targets.slice() : null,
  });

  it("are a function of seed and step, whatever was made before", () => {
    const forwards = Array.from({ length: 12 }, (_, step) => snapshot(make(step)));
    const sameSeed = makeBatcher(corpus, 7);
    for (let step = 11; step >= 0; step--) expect(snapshot(sameSeed(step))).toEqual(forwards[step]);
    const otherSeed = makeBatcher(corpus, 8);
    expect(Array.from({ length: 12 }, (_, step) => snapshot(otherSeed(step)))).not.toEqual(forwards);
  });

  it("draw sources as often as their shares say", () => {
    const counts = corpus.sources.map(() => 0);
    const steps = 1_500;
    for (let step = 0; step < steps; step++) {
      const { sourceIndex, source } = make(step);
      expect(source).toBe(corpus.sources[sourceIndex]);
      counts[sourceIndex] = (counts[sourceIndex] as number) + 1;
    }
    corpus.sources.forEach(({ share }, i) => {
      const deviation = Math.sqrt(steps * share * (1 - share));
      expect(Math.abs((counts[i] as number) - steps * share)).toBeLessThan(4 * deviation);
    });
  });

  it("leave a quarter of the words without their own row", () => {
    let dropped = 0;
    let all = 0;
    for (let step = 0; step < 40; step++) {
      const { rowDropped, distinctCount } = make(step);
      dropped += rowDropped.subarray(0, distinctCount).reduce((sum, count) => sum + count, 0);
      all += distinctCount;
    }
    expect(Math.abs(dropped / all - 0.25)).toBeLessThan(0.02);
  });

  it("have no empty text, distinct words and nothing that its texts do not have", () => {
    for (let step = 0; step < 40; step++) {
      const batch = make(step);
      const { textCount, distinctWords, distinctCount, source } = batch;
      expect(textCount).toBe(source.kind === "labelled" ? BATCH_SIZE : 2 * BATCH_SIZE);
      const all = Array.from({ length: textCount }, (_, i) => wordsOf(batch, i));
      expect(Math.min(...all.map(({ length }) => length))).toBeGreaterThan(0);
      const distinct = Array.from(distinctWords.subarray(0, distinctCount));
      expect(new Set(distinct).size).toBe(distinctCount);
      expect(sorted([...new Set(all.flat())])).toEqual(sorted(distinct));
    }
  });

  it("deal each text's words into halves of two words or more", () => {
    const halves = restrictKinds(corpus, "halves");
    const halved = new Set(
      Array.from(halves.sources[0]?.left ?? [], (id) => `${sorted(listMembers(corpus.texts, id))}`),
    );
    const batch = makeBatcher(halves, 1)(0);
    for (let i = 0; i < BATCH_SIZE; i++) {
      const sides = [wordsOf(batch, i), wordsOf(batch, BATCH_SIZE + i)];
      expect(Math.min(...sides.map(({ length }) => length))).toBeGreaterThanOrEqual(2);
      expect(halved).toContain(`${sorted(sides.flat())}`);
    }
  });

  it("leave a fifth of the words out, but of halves", () => {
    const pairs = restrictKinds(corpus, "adjacent");
    const [source] = pairs.sources;
    const lengths = Array.from(source?.left ?? [], (id) => listMembers(corpus.texts, id).length);
    const expected = lengths.reduce((sum, length) => sum + length, 0) / lengths.length;
    const batch = makeBatcher(pairs, 1);
    let total = 0;
    for (let step = 0; step < 20; step++) total += batch(step).textStarts[BATCH_SIZE] as number;
    expect(Math.abs(total / (20 * BATCH_SIZE) / expected - 0.8)).toBeLessThan(0.02);
  });

  it("mask exactly the pairs that share a text", () => {
    // Words tell the texts apart where each text is one word, which no dropout takes away.
    const random = seededRandom(1);
    const text = () => String.fromCharCode(0x4e00 + Math.floor(random() * 400));
    const folder = writeFiles({ "p.tsv": Array.from({ length: 300 }, () => `${text()}\t${text()}`) });
    const batch = makeBatcher(readGroups(folder, [makeGroup("pairs", "p.tsv")], 2), 1)(0);
    const [left, right] = [0, BATCH_SIZE].map((side) =>
      Array.from({ length: BATCH_SIZE }, (_, i) => wordsOf(batch, side + i)[0]),
    );
    const expected: number[] = [];
    for (let i = 0; i < BATCH_SIZE; i++) {
      for (let j = 0; j < BATCH_SIZE; j++) {
        const others = [left?.[j], right?.[j]];
        if (i !== j && (others.includes(left?.[i]) || others.includes(right?.[i]))) expected.push(i * BATCH_SIZE + j);
      }
    }
    expect(sorted([...new Set(batch.maskedPairs)])).toEqual(expected);
    expect(expected.length).toBeGreaterThan(0);
  });

  it("have a class of the text's own for each text", () => {
    const labelled = restrictKinds(corpus, "labelled");
    const make = makeBatcher(labelled, 1);
    const drawn = new Set<number>();
    for (let step = 0; step < 6; step++) {
      const { source, targets } = make(step);
      const labelMembers = new Set(source.labels.members);
      for (const target of targets) {
        expect(labelMembers).toContain(target);
        if (source.name === "labels.tsv") drawn.add(target);
      }
    }
    expect(drawn.size).toBe(5);
  });
});

describe("the file of a table", () => {
  const random = seededRandom(3);
  const { dimensions, vocabulary, buckets } = shape;
  const table = Float32Array.from({ length: (vocabulary + buckets) * dimensions }, () => random() - 0.5);
  const folded = foldNgrams(corpus, shape, table);
  const tableRow = (values: Float32Array, index: number) =>
    values.subarray(index * dimensions, (index + 1) * dimensions);

  it("has each word's own row and its n-grams' together, and the n-grams' rows as they are", () => {
    corpus.vocabulary.forEach((name, word) => {
      const expected = Float64Array.from(tableRow(table, word));
      const grams: number[] = [];
      forEachSubword(name, buckets, (bucket) => grams.push(vocabulary + bucket));
      for (const gram of grams) {
        tableRow(table, gram).forEach((value, j) => {
          expected[j] = (expected[j] as number) + value / Math.sqrt(grams.length);
        });
      }
      tableRow(folded, word).forEach((value, j) => {
        expect(Math.abs(value - (expected[j] as number))).toBeLessThan(1e-5);
      });
    });
    expect(folded.subarray(vocabulary * dimensions)).toEqual(table.subarray(vocabulary * dimensions));
  });

  const file = quantise(folded, shape);
  const read = readTable(corpus.vocabulary.join("\n"), file);
  /** A row as the file has it: whole numbers from −7 to 7, times the row's scale. */
  const numbersOf = (index: number) =>
    Array.from({ length: dimensions }, (_, j) => {
      const eight = read.packed[(index * dimensions + j) >> 3] as number;
      return ((eight >>> (4 * (j % 8))) & 15) - 8;
    });

  it("reads back within half a step of each row's scale, but for what the scale cuts off", () => {
    expect(read).toMatchObject({ dimensions, buckets });
    expect([...read.vocabulary.keys()]).toEqual(corpus.vocabulary);
    for (let index = 0; index < vocabulary + buckets; index++) {
      const scale = read.scales[index] as number;
      const numbers = numbersOf(index);
      tableRow(folded, index).forEach((value, j) => {
        const number = numbers[j] as number;
        if (Math.abs(value) > 7.5 * scale) expect(number).toBe(7 * Math.sign(value));
        else expect(Math.abs(value - scale * number)).toBeLessThanOrEqual(scale * (0.5 + 1e-6));
      });
    }
  });

  it("has the scale of the least squared error among those tried, and holds rows of zeros", () => {
    const error = (index: number, scale: number) =>
      tableRow(folded, index).reduce((sum, value) => {
        const number = Math.max(-7, Math.min(7, Math.round(value / scale)));
        return sum + (value - scale * number) ** 2;
      }, 0);
    for (let index = 0; index < vocabulary + buckets; index++) {
      const fits = Math.max(...tableRow(folded, index).map(Math.abs)) / 7;
      expect(error(index, read.scales[index] as number)).toBeLessThan(1.01 * error(index, fits));
    }
    const zeros = readTable(corpus.vocabulary.join("\n"), quantise(new Float32Array(table.length), shape));
    expect(zeros.packed.every((eight) => eight === 0x8888_8888)).toBe(true);
  });

  it("encodes a word of the vocabulary as its row, and another as its n-grams' rows, at unit norm", () => {
    const expectUnit = (embedding: Float32Array, vector: readonly number[]) => {
      const norm = Math.hypot(...vector);
      embedding.forEach((value, j) => {
        expect(Math.abs(value - (vector[j] as number) / norm)).toBeLessThan(1e-6);
      });
    };
    const known = corpus.vocabulary.filter((name) => splitWords(name)[0] === name);
    expect(known.length).toBeGreaterThan(30);
    for (const name of known) expectUnit(encode(read, name), numbersOf(read.vocabulary.get(name) as number));
    const sum = new Array<number>(dimensions).fill(0);
    forEachSubword("unheardof", buckets, (bucket) => {
      const scale = read.scales[vocabulary + bucket] as number;
      numbersOf(vocabulary + bucket).forEach((number, j) => {
        sum[j] = (sum[j] as number) + scale * number;
      });
    });
    expectUnit(encode(read, "unheardof"), sum);
  });
});
