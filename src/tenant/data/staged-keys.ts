/**
 * The keys of an import's staged rows, in memory for as long as its connection: by the row's id, or else by its content.
 * A table in the ledger would be written all over with every batch, because keys are in no order.
 */

/** What was staged last under a key. */
export interface StagedKey {
  line: number;
  /** 32 bits of the hash of its content. */
  content: number;
}

/** Four words a key: two of its hash, the line (never 0), the content. */
const WORDS = 4;

/** A hash table with open addressing: 16 bytes a slot, of which at most half are used. Keys are SHA-256, cut to 64 bits. */
export class StagedKeys {
  #slots = new Uint32Array(WORDS * 1024);
  #size = 0;

  /** Sets what is staged under a key. Answers what was staged under it before; null if nothing. */
  replace(hash: Uint8Array, { line, content }: StagedKey): StagedKey | null {
    if (2 * WORDS * this.#size >= this.#slots.length) this.#grow();
    const view = new DataView(hash.buffer, hash.byteOffset, hash.byteLength);
    const [low, high] = [view.getUint32(0), view.getUint32(4)];
    const slots = this.#slots;
    const slot = findSlot(slots, low, high);
    const previous = { line: slots[slot + 2] ?? 0, content: slots[slot + 3] ?? 0 };
    slots[slot] = low;
    slots[slot + 1] = high;
    slots[slot + 2] = line;
    slots[slot + 3] = content;
    if (previous.line !== 0) return previous;
    this.#size++;
    return null;
  }

  #grow(): void {
    const previous = this.#slots;
    this.#slots = new Uint32Array(2 * previous.length);
    for (let slot = 0; slot < previous.length; slot += WORDS) {
      const entry = previous.subarray(slot, slot + WORDS);
      if (entry[2] !== 0) this.#slots.set(entry, findSlot(this.#slots, entry[0] ?? 0, entry[1] ?? 0));
    }
  }
}

/** Where a key is, or else the first free slot for it. */
function findSlot(slots: Uint32Array, low: number, high: number): number {
  for (let slot = (low * WORDS) % slots.length; ; slot = (slot + WORDS) % slots.length)
    if (slots[slot + 2] === 0 || (slots[slot] === low && slots[slot + 1] === high)) return slot;
}
