import { seededRandom, shuffle } from "../random.ts";

/** The fold of a row that is in no fold: it is trained on always and never held out. */
export const ALWAYS_TRAINED = -1;

/**
 * Stratified, grouped folds: the fold (0 … count − 1) in which each row is held out, or ALWAYS_TRAINED. Every class is
 * spread evenly over the folds, rows of one group stay together, and a class is never held out whole: where one group
 * has all its rows, or all rows there are, that group is always trained on.
 *
 * @param strata each row's class; rows of class −1 are spread as well, and may be held out whole.
 */
export function stratifiedFolds(strata: Int32Array, groups: Int32Array, count: number, seed: number): Int32Array {
  return assignFolds(strata, groups, count, seed, (part) => part);
}

/** Parts that a holdout is cut from: its fraction is to a twentieth. */
const HOLDOUT_PARTS = 20;

/**
 * As `stratifiedFolds`, but fold 0, the holdout, has `fraction` of the rows and of each class, and the others share the rest.
 * Of a class of few groups it takes every so many, not the first.
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
  const rowsOfGroup = new Map<number, number[]>();
  const groupsOfClass = new Map<number, Set<number>>();
  strata.forEach((stratum, row) => {
    const group = groups[row] as number;
    append(rowsOfGroup, group, row);
    const seen = groupsOfClass.get(stratum);
    if (seen === undefined) groupsOfClass.set(stratum, new Set([group]));
    else seen.add(group);
  });

  const groupsByStratum = new Map<number, number[]>();
  for (const [group, rows] of rowsOfGroup) append(groupsByStratum, strata[rows[0] as number] as number, group);

  const random = seededRandom(seed);
  const foldOfGroup = new Map<number, number>();
  let nextPart = 0;
  for (const stratum of [...groupsByStratum.keys()].sort((a, b) => a - b)) {
    for (const group of shuffle(groupsByStratum.get(stratum) ?? [], random)) {
      foldOfGroup.set(group, foldOf(nextPart));
      nextPart = (nextPart + 1) % parts;
    }
  }
  for (const [stratum, members] of groupsOfClass) {
    const usedFolds = new Set(Array.from(members, (group) => foldOfGroup.get(group)));
    const [first] = members;
    if (stratum !== -1 && usedFolds.size === 1 && first !== undefined) foldOfGroup.set(first, ALWAYS_TRAINED);
  }
  if (new Set(foldOfGroup.values()).size === 1) return new Int32Array(groups.length).fill(ALWAYS_TRAINED);
  return Int32Array.from(groups, (group) => foldOfGroup.get(group) ?? ALWAYS_TRAINED);
}

function append<K, V>(lists: Map<K, V[]>, key: K, value: V): void {
  const list = lists.get(key);
  if (list === undefined) lists.set(key, [value]);
  else list.push(value);
}
