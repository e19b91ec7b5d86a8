/** Finds inputs that come with several targets. Of a row it keeps the 12 bytes that tell it from others. */

export interface ConflictFinder {
  /** Adds a row by its hashes. Whether it is the first whose target differs from another of its input. */
  add(inputHash: Uint8Array, contentHash: Uint8Array): boolean;
}

const WORDS = 3;
const MIN_CAPACITY = 1024;
/** 7 MB. Of an import with more than 390,000 inputs, the last ones are not compared. */
const MAX_CAPACITY = 524_288;
const MAX_LOAD = 0.75;
/** The third word of an input whose conflict is known. A content's own word is never 0. */
const CONFLICT = 0;

/** A hash table with open addressing: two words of the input's hash, and one of the content's. */
export function createConflictFinder(): ConflictFinder {
  let table = new Uint32Array(MIN_CAPACITY * WORDS);
  let isUsed = new Uint8Array(MIN_CAPACITY);
  let size = 0;
  /** The slot of an input: its own, or the free one where it belongs. */
  const find = (high: number, low: number): number => {
    const mask = isUsed.length - 1;
    let slot = low & mask;
    while (isUsed[slot] === 1 && (table[slot * WORDS] !== high || table[slot * WORDS + 1] !== low))
      slot = (slot + 1) & mask;
    return slot;
  };
  const insert = (slot: number, high: number, low: number, content: number) => {
    isUsed[slot] = 1;
    table.set([high, low, content], slot * WORDS);
  };
  const grow = () => {
    const [oldTable, oldUsed] = [table, isUsed];
    table = new Uint32Array(2 * oldTable.length);
    isUsed = new Uint8Array(2 * oldUsed.length);
    for (const [slot, used] of oldUsed.entries()) {
      if (used === 0) continue;
      const [high = 0, low = 0, content = 0] = oldTable.subarray(slot * WORDS, (slot + 1) * WORDS);
      insert(find(high, low), high, low, content);
    }
  };
  return {
    add(inputHash, contentHash) {
      const [high, low] = [wordAt(inputHash, 0), wordAt(inputHash, 4)];
      const content = wordAt(contentHash, 0) || 1;
      const slot = find(high, low);
      if (isUsed[slot] === 1) {
        const known = table[slot * WORDS + 2];
        if (known === CONFLICT || known === content) return false;
        table[slot * WORDS + 2] = CONFLICT;
        return true;
      }
      if (size >= MAX_LOAD * MAX_CAPACITY) return false;
      insert(slot, high, low, content);
      if (++size > MAX_LOAD * isUsed.length && isUsed.length < MAX_CAPACITY) grow();
      return false;
    },
  };
}

function wordAt(bytes: Uint8Array, offset: number): number {
  const [a = 0, b = 0, c = 0, d = 0] = [bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]];
  return ((a << 24) | (b << 16) | (c << 8) | d) >>> 0;
}
