/** What is counted of the predictions of a head's versions, and which version an input goes to. */
import { addInputCounts, type InputCounts, noInputs } from "../evaluation/input-counts.ts";

export interface Share {
  readonly version: number;
  /** Within (0, 1]; those of a head add up to 1. */
  readonly share: number;
}

/**
 * The version of an input whose hash is `hash`, uniform in [0, 1). The shares lie one after another, in their order, so that
 * a version whose share grows keeps the inputs that it had.
 */
export function chooseShare<T extends { readonly share: number }>(shares: readonly [T, ...T[]], hash: number): T {
  let end = 0;
  for (const each of shares) {
    end += each.share;
    if (hash < end) return each;
  }
  // What rounding leaves over.
  return shares[shares.length - 1] ?? shares[0];
}

/** The largest share, of equal ones the first; null without shares. */
export function largestShare<T extends { readonly share: number }>(shares: readonly T[]): T | null {
  return shares.reduce<T | null>(
    (largest, each) => (largest === null || each.share > largest.share ? each : largest),
    null,
  );
}

/** How often a version predicted what another one answered. */
export interface Agreement {
  readonly inputs: number;
  readonly agreed: number;
}

/** What is counted of a version in a time. */
export interface TrafficCounts {
  /** Its inputs, those that it only shadowed among them. */
  readonly inputs: InputCounts;
  readonly shadow_inputs: number;
  /** Inputs that it was to shadow, and did not because there was too much else to do. */
  readonly shed: number;
  /** By the version that answered. */
  readonly agreement: Readonly<Record<string, Agreement>>;
  /** Examples that came as feedback, and those of them that it predicts right. */
  readonly judged: number;
  readonly hits: number;
}

export const noTraffic: TrafficCounts = {
  inputs: noInputs,
  shadow_inputs: 0,
  shed: 0,
  agreement: {},
  judged: 0,
  hits: 0,
};

export function addTraffic(a: TrafficCounts, b: TrafficCounts): TrafficCounts {
  const agreement: Record<string, Agreement> = { ...a.agreement };
  for (const [version, { inputs, agreed }] of Object.entries(b.agreement)) {
    const before = agreement[version] ?? { inputs: 0, agreed: 0 };
    agreement[version] = { inputs: before.inputs + inputs, agreed: before.agreed + agreed };
  }
  return {
    inputs: addInputCounts(a.inputs, b.inputs),
    shadow_inputs: a.shadow_inputs + b.shadow_inputs,
    shed: a.shed + b.shed,
    agreement,
    judged: a.judged + b.judged,
    hits: a.hits + b.hits,
  };
}
