/** What may be wrong with an example of a data set. */

/** What an example's label, labels or value should be. Labels are indices. */
export type Suggestion = number | readonly number[];

export const issueTypes = ["label_error", "conflict", "near_duplicate", "duplicate", "outlier"] as const;
export type IssueType = (typeof issueTypes)[number];

/** An issue of the example in a row of the training set. */
export interface RowIssue {
  readonly type: IssueType;
  readonly row: number;
  /** The row of the example that it is compared with; null if it is compared with none. */
  readonly other: number | null;
  /** null if nothing is suggested. */
  readonly suggestion: Suggestion | null;
  /** How likely it is that something is to be changed, in [0, 1]. */
  readonly score: number;
}

/** How much more probable a row's label is than another, in [0, 1]; a half where that isn't known. */
export type Judge = (row: number, label: number, other: number) => number;
