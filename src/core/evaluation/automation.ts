/**
 * Which share of inputs a head can answer alone at an accuracy: those whose top probability is at least a threshold.
 * The threshold is the lowest at which the held-out inputs at or above it are right so often that Wilson's lower bound,
 * one standard error below, is the accuracy or more. Without the margin, the lowest of many thresholds would be one that
 * chance favours, and half of all heads would be less accurate than asked for.
 */
import { wilsonInterval } from "./metrics.ts";

const ACCURACIES = [0.9, 0.95, 0.99] as const;

export interface Automation {
  /** Asked of the inputs that are answered. */
  readonly accuracy: number;
  /** Inputs whose top probability is at least this are answered. Null if no threshold is accurate enough. */
  readonly threshold: number | null;
  /** The share of inputs that are answered. */
  readonly share: number;
  /** Wilson's 95 % interval of the share. */
  readonly interval: readonly [number, number];
}

/** What is known of a held-out input: its top probability, and whether its label is predicted correctly. */
export interface JudgedInput {
  readonly top: number;
  readonly isCorrect: boolean;
}

/** The automation at accuracies of .90, .95 and .99. */
export function automationOf(inputs: readonly JudgedInput[]): Automation[] {
  const descending = inputs.toSorted((a, b) => b.top - a.top);
  return ACCURACIES.map((accuracy) => {
    let correct = 0;
    let answered = 0;
    for (const [i, { top, isCorrect }] of descending.entries()) {
      if (isCorrect) correct++;
      const isLastOfTie = descending[i + 1]?.top !== top;
      if (isLastOfTie && wilsonInterval(correct / (i + 1), i + 1, 1)[0] >= accuracy) answered = i + 1;
    }
    const share = inputs.length === 0 ? 0 : answered / inputs.length;
    const interval = wilsonInterval(share, inputs.length);
    return { accuracy, threshold: descending[answered - 1]?.top ?? null, share, interval };
  });
}
