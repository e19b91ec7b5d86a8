/**
 * When a version's live inputs are compared with those that were held out at its training. They are compared a window at a
 * time: after 200, 400, 800, 1,600 and 3,200 inputs, and from then on after every 3,200, so that a late shift is not lost
 * among what came before. Window k may raise a false alarm with the probability
 *
 *   α / (k (k + 1)),   Σ_k = α = 0.01,
 *
 * divided among the figures that are compared. So whoever serves a version for however long is told of a shift that is none
 * with a probability of 1 % at most. A shift is a figure with a lower p-value and a large index (evaluation/input-shift.ts).
 * It has ended when, in a later window, no figure has half that index.
 */
import { addInputCounts, type InputCounts, noInputs } from "../evaluation/input-counts.ts";
import {
  compareInputs,
  type FigureShift,
  LARGE_INDEX,
  pointsToShift,
  shiftFigures,
} from "../evaluation/input-shift.ts";

const FALSE_ALARM_RATE = 0.01;
const FIRST_WINDOW = 200;
const LARGEST_WINDOW = 3_200;

export interface ShiftState {
  /** How many windows have been compared. */
  readonly windows: number;
  /** The inputs of the open window. */
  readonly open: InputCounts;
  /** The latest comparison; empty before the first one. */
  readonly figures: readonly FigureShift[];
  /** What moved, and when that was noticed, in milliseconds. Null while no shift is noticed. */
  readonly shift: { readonly since: number; readonly moved: readonly FigureShift[] } | null;
}

export const initialShiftState: ShiftState = { windows: 0, open: noInputs, figures: [], shift: null };

/** How many inputs the window after `windows` others has. */
export function windowSize(windows: number): number {
  // The windows before it end at 200, 400, 800 …
  return Math.min(FIRST_WINDOW * 2 ** Math.max(0, windows - 1), LARGEST_WINDOW);
}

/** The figures that have moved in window number `window`, from 1. */
export function findMoved(figures: readonly FigureShift[], window: number): FigureShift[] {
  const level = FALSE_ALARM_RATE / (window * (window + 1)) / shiftFigures.length;
  return figures.filter((each) => each.psi >= LARGE_INDEX && each.p_value < level && pointsToShift(each));
}

/**
 * The state after further live inputs of the version, and whether a window that has ended shows a shift while none was
 * noticed before.
 */
export function countInputs(
  state: ShiftState,
  inputs: InputCounts,
  reference: InputCounts,
  labels: number,
  now: number,
): { readonly state: ShiftState; readonly isNew: boolean } {
  const open = addInputCounts(state.open, inputs);
  if (open.inputs < windowSize(state.windows)) return { state: { ...state, open }, isNew: false };
  const windows = state.windows + 1;
  const figures = compareInputs(reference, open, labels);
  const moved = findMoved(figures, windows);
  const hasEnded = figures.every((each) => each.psi < LARGE_INDEX / 2 || !pointsToShift(each));
  const isNew = state.shift === null && moved.length > 0;
  const shift = moved.length > 0 ? { since: state.shift?.since ?? now, moved } : hasEnded ? null : state.shift;
  return { state: { windows, open: noInputs, figures, shift }, isNew };
}
