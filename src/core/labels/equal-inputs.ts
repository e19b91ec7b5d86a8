/** Examples with the same input apart from case and spacing: conflicts if their labels differ, else duplicates. */
import type { Targets } from "../linear/targets.ts";
import type { Judge, RowIssue } from "./issue.ts";

/** Nothing is wrong with a duplicate, so that all else comes first. */
const DUPLICATE_SCORE = 0.05;

export function isSameTarget(targets: Targets, row: number, other: number): boolean {
  switch (targets.kind) {
    case "single":
      return targets.indices[row] === targets.indices[other];
    case "value":
      return targets.values[row] === targets.values[other];
    case "multi":
      return String(targets.indices[row]) === String(targets.indices[other]);
  }
}

/**
 * Each group's first row of the best label stays. Others of that label are its duplicates, and those of other labels are in
 * conflict with it. The best label is the most frequent one, and of equally frequent ones the most probable.
 */
export function findGroupIssues(groups: Int32Array, targets: Targets, judge: Judge): RowIssue[] {
  const members = [...Map.groupBy(groups.keys(), (row) => groups[row] as number).values()];
  return members.flatMap((rows) => (rows.length < 2 ? [] : issuesOfGroup(rows, targets, judge)));
}

function issuesOfGroup(rows: readonly number[], targets: Targets, judge: Judge): RowIssue[] {
  const byTarget: number[][] = [];
  for (const row of rows) {
    const equal = byTarget.find(([first]) => isSameTarget(targets, first as number, row));
    if (equal === undefined) byTarget.push([row]);
    else equal.push(row);
  }
  const labelOf = (row: number) => (targets.kind === "single" ? (targets.indices[row] as number) : -1);
  byTarget.sort(
    ([a, ...moreA], [b, ...moreB]) =>
      moreB.length - moreA.length || 0.5 - judge(a as number, labelOf(a as number), labelOf(b as number)),
  );
  const [best = []] = byTarget;
  const kept = best[0] as number;
  return byTarget.flatMap(([first, ...repeated]) => [
    ...(first === kept ? [] : [first as number, ...repeated].map((row) => conflict(row, kept, targets, judge))),
    ...(first === kept ? repeated : []).map(
      (row): RowIssue => ({ type: "duplicate", row, other: kept, suggestion: null, score: DUPLICATE_SCORE }),
    ),
  ]);
}

function conflict(row: number, kept: number, targets: Targets, judge: Judge): RowIssue {
  if (targets.kind === "single") {
    const [own, best] = [targets.indices[row] as number, targets.indices[kept] as number];
    const score = Math.max(0.5, 1 - judge(row, own, best));
    return { type: "conflict", row, other: kept, suggestion: best < 0 ? null : best, score };
  }
  const suggestion = targets.kind === "multi" ? (targets.indices[kept] ?? []) : (targets.values[kept] as number);
  return { type: "conflict", row, other: kept, suggestion, score: 0.5 };
}
