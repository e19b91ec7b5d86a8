// A text's lexical features: TF-IDF of its words, word pairs and character n-grams (docs/lexical-features.md).

/** A run of letters and marks with the apostrophes inside of it, a run of digits, or another character alone. */
const WORDS = /[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*|\p{N}+|\S/gu;

/** The features of a text by column of the export's `lexical.weights`. */
export function lexicalFeatures({ buckets, scale, seen, idf }, text) {
  const counts = countBuckets(text, buckets);
  const found = [...seen.entries()].filter(([, bucket]) => counts.has(bucket));
  const weighted = found.map(([column, bucket]) => ({
    column,
    isWord: bucket < buckets,
    weight: (1 + Math.log(counts.get(bucket))) * idf[column],
  }));
  const norm = (isWord) => Math.hypot(...weighted.filter((each) => each.isWord === isWord).map(({ weight }) => weight));
  const norms = { words: norm(true), grams: norm(false) };
  return new Map(
    weighted.map(({ column, isWord, weight }) => [column, (scale * weight) / (isWord ? norms.words : norms.grams)]),
  );
}

/** How often a text has each bucket: words and pairs share the first `buckets`, n-grams have the second. */
function countBuckets(text, buckets) {
  const counts = new Map();
  const count = (bucket) => counts.set(bucket, (counts.get(bucket) ?? 0) + 1);
  const words = splitWords(text);
  const hashes = words.map((word) => fnv(0x811c9dc5, codeUnits(word)));
  for (const hash of hashes) count(finalise(hash) % buckets);
  for (const [i, hash] of hashes.slice(1).entries()) count(finalise(fnv(0x9dc5811c, [hashes[i], hash])) % buckets);
  for (const word of words) {
    const units = codeUnits(`<${word}>`);
    for (const n of [2, 3, 4])
      for (let i = 0; i + n <= units.length; i++)
        count(buckets + (finalise(fnv(0x01234567, units.slice(i, i + n))) % buckets));
  }
  return counts;
}

/** The words of a text without case, compatibility forms and accents. */
function splitWords(text) {
  const bare = text.normalize("NFKD").replace(/\p{Script=Inherited}+/gu, "");
  const words = bare.toUpperCase().toLowerCase().match(WORDS);
  if (words !== null) return words.map((word) => word.replaceAll("’", "'"));
  return text.trim() === "" ? [] : [text.trim()];
}

function codeUnits(text) {
  return Array.from({ length: text.length }, (_, i) => text.charCodeAt(i));
}

/** FNV-1a. */
function fnv(start, values) {
  return values.reduce((hash, value) => Math.imul(hash ^ value, 0x01000193), start);
}

/** MurmurHash3's 32-bit finaliser. */
function finalise(hash) {
  let h = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
