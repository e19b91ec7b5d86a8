/** The rows of words, a batch's words laid out for the convolution, and the steps of the rows that a batch has. */
import { WINDOW } from "../core/fine-tuning-cost.ts";
import { ADAM } from "./adam.ts";
import type { Workspace } from "./kernels.ts";

/** The longest text in training; words after these are left out. */
export const MAX_WORDS = 128;

/** Where the words of a batch lie: byte offsets, but for the counts `batch` and `positions`. */
export interface BatchLayout {
  /** Texts, padded to what the kernels need. */
  readonly batch: number;
  /** Words and the zeros around each text, at most. */
  readonly positions: number;
  /** positions × dimensions. */
  readonly inputs: number;
  readonly inputGradient: number;
  /** Each text's first position and its length, in turns. */
  readonly spans: number;
}

export interface WordRows {
  readonly layout: BatchLayout;
  /** words × dimensions. */
  table(): Float32Array;
  /** Keeps the trained rows as they are now, as the anchors of later steps. */
  setAnchor(): void;
  snapshot(): Float32Array;
  restore(snapshot: Float32Array): void;
  /** Lays out the texts' words with a position of zeros before each text and at the end. Answers the number of positions. */
  writeInputs(texts: readonly Int32Array[]): number;
  inputGradient(): Float32Array;
  clearGradient(positions: number): void;
  /** A step of Adam for the trained rows of these texts, then `anchorRate` of the way back to their anchors. */
  update(texts: readonly Int32Array[], rate: number, anchorRate: number): void;
}

export interface WordRowsShape {
  readonly dimensions: number;
  readonly wordCount: number;
  readonly trainedCount: number;
  readonly batchSize: number;
}

export function makeWordRows(
  workspace: Workspace,
  { dimensions: d, wordCount, trainedCount, batchSize }: WordRowsShape,
): WordRows {
  const { kernels, floats, reserve } = workspace;
  const rows = reserve(wordCount * d);
  const anchors = reserve(trainedCount * d);
  const [means, squares] = [reserve(trainedCount * d), reserve(trainedCount * d)];
  const scratch = reserve(d);
  const layout = reserveLayout(workspace, d, batchSize);
  const { positions, inputGradient } = layout;
  const lists: RowLists = { rows: reserve(positions), starts: reserve(positions + 1), members: reserve(positions) };
  return {
    layout,
    table: () => floats(rows, wordCount * d),
    setAnchor: () => floats(anchors, trainedCount * d).set(floats(rows, trainedCount * d)),
    snapshot: () => floats(rows, trainedCount * d).slice(),
    restore: (snapshot) => floats(rows, trainedCount * d).set(snapshot),
    writeInputs: (texts) => writeInputs(workspace, layout, texts, floats(rows, wordCount * d), d),
    inputGradient: () => floats(inputGradient, positions * d),
    clearGradient: (count) => void floats(inputGradient, (count + WINDOW) * d).fill(0),
    update(texts, rate, anchorRate) {
      const count = listRows(workspace, texts, trainedCount, lists);
      const gradients = [lists.rows, lists.starts, lists.members, 0, inputGradient, d] as const;
      kernels.adamRows(0, count, ...gradients, rows, means, squares, scratch, rate, ...ADAM);
      kernels.pullRows(count, lists.rows, d, rows, anchors, anchorRate);
    },
  };
}

function reserveLayout({ reserve }: Workspace, d: number, batchSize: number): BatchLayout {
  const batch = Math.ceil(batchSize / 4) * 4;
  const positions = batch * (MAX_WORDS + 1) + WINDOW + 1;
  return {
    batch,
    positions,
    inputs: reserve(positions * d),
    inputGradient: reserve(positions * d),
    spans: reserve(2 * batch),
  };
}

function writeInputs(
  { floats, integers }: Workspace,
  { batch, positions, inputs, spans }: BatchLayout,
  texts: readonly Int32Array[],
  table: Float32Array,
  d: number,
): number {
  const to = floats(inputs, positions * d);
  const span = integers(spans, 2 * batch);
  let position = 0;
  to.fill(0, 0, d);
  for (let i = 0; i < batch; i++) {
    const text = texts[i];
    const length = Math.min(MAX_WORDS, text?.length ?? 0);
    span[2 * i] = position;
    span[2 * i + 1] = length;
    if (text === undefined) continue;
    for (const row of text.subarray(0, length)) to.set(table.subarray(row * d, (row + 1) * d), ++position * d);
    to.fill(0, ++position * d, (position + 1) * d);
  }
  const padded = Math.ceil(position / 4) * 4;
  to.fill(0, (position + 1) * d, (padded + WINDOW) * d);
  return padded;
}

/** Byte offsets: the rows that a batch has, where each row's positions begin in `members`, and these positions. */
interface RowLists {
  readonly rows: number;
  readonly starts: number;
  readonly members: number;
}

/** Lists the trained rows that the texts have, each once, with their positions. Answers how many there are. */
function listRows(
  { integers }: Workspace,
  texts: readonly Int32Array[],
  trainedCount: number,
  lists: RowLists,
): number {
  const positionsOfRow = new Map<number, number[]>();
  let position = 0;
  let count = 0;
  for (const text of texts) {
    for (const row of text.subarray(0, MAX_WORDS)) {
      position++;
      if (row >= trainedCount) continue;
      count++;
      const known = positionsOfRow.get(row);
      if (known === undefined) positionsOfRow.set(row, [position]);
      else known.push(position);
    }
    position++;
  }
  const rows = integers(lists.rows, positionsOfRow.size);
  const starts = integers(lists.starts, positionsOfRow.size + 1);
  const members = integers(lists.members, count);
  let offset = 0;
  let index = 0;
  for (const [row, positions] of positionsOfRow) {
    rows[index] = row;
    starts[index++] = offset;
    for (const each of positions) members[offset++] = each;
  }
  starts[index] = offset;
  return index;
}
