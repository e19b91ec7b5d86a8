import { seededRandom, shuffle } from "../random.ts";

export const DEFAULT_FOLDS = 5;
export const DEFAULT_HOLDOUT_FRACTION = 0.2;
/** The fold of a row that is always trained on and never held out. */
export const ALWAYS_TRAINED = -1;
/** What a row costs that is assigned a fold, in operations of a product. */
export const OPERATIONS_PER_FOLD_ROW = 10_000;

/**
 * Stratified, grouped folds: the fold (0 … count − 1) in which each row is held out, or ALWAYS_TRAINED. Every class is
 * spread evenly over the folds, and rows of one group stay together. A class is never held out whole: if one group has
 * all its rows, or all rows of the set, that group is always trained on.
 *
 * @param strata each row's class. Class −1 is spread like the others, but may be held out whole.
 */
export function stratifiedFolds(strata: Int32Array, groups: Int32Array, count: number, seed: number): Int32Array {
  return assignFolds(strata, groups, count, seed, (part) => part);
}

/** With fewer examples, candidates are compared on models that are nearer to those of all examples. */
const EXAMPLES_OF_TWO_FOLDS = 500;

/** The folds in which the candidates of so many examples are compared. */
export function comparisonFoldCount(examples: number): number {
  return examples < EXAMPLES_OF_TWO_FOLDS ? DEFAULT_FOLDS : 2;
}

/**
 * Stratified, grouped folds that hardly change as rows are added: each class is cut at the quantiles of its groups'
 * positions, so a new group moves about one other at each cut. A class with fewer groups than folds is in as many folds
 * as it has groups. Like `stratifiedFolds`, it never holds a class out whole.
 *
 * @param positions of each group, by its number: uniform in [0, 1), such as its hash
 */
export function quantileFolds(
  strata: Int32Array,
  groups: Int32Array,
  positions: ArrayLike<number>,
  count: number,
): Int32Array {
  const positionOf = (group: number) => positions[group] as number;
  const foldOfGroup = new Map<number, number>();
  for (const members of groupsByStratum(strata, groups).values()) {
    members.sort((a, b) => positionOf(a) - positionOf(b));
    for (const [rank, group] of members.entries())
      foldOfGroup.set(group, Math.floor((count * (rank + positionOf(group))) / members.length));
  }
  return foldsOfRows(foldOfGroup, strata, groups);
}

/** Classes with two groups are always trained on if they have at most this share of the rows: else all have two folds. */
const MAX_RARE_SHARE = 0.05;

export interface Folds {
  /** The fold in which each row is held out, or ALWAYS_TRAINED. */
  readonly folds: Int32Array;
  readonly foldCount: number;
}

/**
 * Stratified, grouped folds, `maxCount` at most and never more than the smallest class has groups. With more folds a
 * held-out row's class would have lost a larger share of its rows than the others have, and would hardly be predicted.
 * A class with one group is always trained on, and so are rare ones with two.
 */
export function crossValidationFolds(strata: Int32Array, groups: Int32Array, maxCount: number, seed: number): Folds {
  const groupsOfClass = groupsByClass(strata, groups);
  const groupCount = (stratum: number) => groupsOfClass.get(stratum)?.size ?? 0;
  const pairRows = strata.filter((stratum) => groupCount(stratum) === 2).length;
  const minGroups = pairRows <= MAX_RARE_SHARE * strata.length ? 3 : 2;
  const counts = [...groupsOfClass.values()].map(({ size }) => size).filter((size) => size >= minGroups);
  const foldCount = Math.min(maxCount, ...counts);
  const isRare = (stratum: number) => stratum !== -1 && groupCount(stratum) < minGroups;
  const folds = stratifiedFolds(strata, groups, foldCount, seed);
  return { folds: folds.map((fold, row) => (isRare(strata[row] as number) ? ALWAYS_TRAINED : fold)), foldCount };
}

/** The groups of each class but −1. */
function groupsByClass(strata: Int32Array, groups: Int32Array): ReadonlyMap<number, ReadonlySet<number>> {
  const groupsOfClass = new Map<number, Set<number>>();
  strata.forEach((stratum, row) => {
    if (stratum !== -1)
      groupsOfClass.set(stratum, (groupsOfClass.get(stratum) ?? new Set()).add(groups[row] as number));
  });
  return groupsOfClass;
}

/** A holdout is made of so many parts, so its fraction is rounded to a twentieth. */
const HOLDOUT_PARTS = 20;

/**
 * Like `stratifiedFolds`, but fold 0, the holdout, has `fraction` of the rows and of each class. The other folds share
 * the remaining rows. The parts that belong to the holdout are spread evenly, so that classes with few groups get their
 * share.
 */
export function holdoutFolds(
  strata: Int32Array,
  groups: Int32Array,
  fraction: number,
  count: number,
  seed: number,
): Int32Array {
  if (fraction === 1 / count) return stratifiedFolds(strata, groups, count, seed);
  const heldOutParts = Math.round(fraction * HOLDOUT_PARTS);
  const heldOutBefore = (part: number) => Math.ceil((part * heldOutParts) / HOLDOUT_PARTS);
  return assignFolds(strata, groups, HOLDOUT_PARTS, seed, (part) =>
    heldOutBefore(part + 1) > heldOutBefore(part) ? 0 : 1 + (part % (count - 1)),
  );
}

function assignFolds(
  strata: Int32Array,
  groups: Int32Array,
  parts: number,
  seed: number,
  foldOf: (part: number) => number,
): Int32Array {
  const groupsOfStratum = groupsByStratum(strata, groups);
  const random = seededRandom(seed);
  const foldOfGroup = new Map<number, number>();
  let nextPart = 0;
  for (const stratum of [...groupsOfStratum.keys()].sort((a, b) => a - b)) {
    for (const group of shuffle(groupsOfStratum.get(stratum) ?? [], random)) {
      foldOfGroup.set(group, foldOf(nextPart));
      nextPart = (nextPart + 1) % parts;
    }
  }
  return foldsOfRows(foldOfGroup, strata, groups);
}

/** The groups of each stratum. A group belongs to the stratum of its first row. */
function groupsByStratum(strata: Int32Array, groups: Int32Array): Map<number, number[]> {
  const stratumOfGroup = new Map<number, number>();
  groups.forEach((group, row) => {
    if (!stratumOfGroup.has(group)) stratumOfGroup.set(group, strata[row] as number);
  });
  return Map.groupBy(stratumOfGroup.keys(), (group) => stratumOfGroup.get(group) as number);
}

/** The fold of each row, but that a class whose groups all have one fold keeps its first group for training. */
function foldsOfRows(foldOfGroup: Map<number, number>, strata: Int32Array, groups: Int32Array): Int32Array {
  for (const members of groupsByClass(strata, groups).values()) {
    const usedFolds = new Set(Array.from(members, (group) => foldOfGroup.get(group)));
    const [first] = members;
    if (usedFolds.size === 1 && first !== undefined) foldOfGroup.set(first, ALWAYS_TRAINED);
  }
  if (new Set(foldOfGroup.values()).size === 1) return new Int32Array(groups.length).fill(ALWAYS_TRAINED);
  return Int32Array.from(groups, (group) => foldOfGroup.get(group) ?? ALWAYS_TRAINED);
}
