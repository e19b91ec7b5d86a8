/** What the parts of evaluation.ts have in common: cases that are measured one by one, each stored. */
import { cached, readStored } from "../shared/cached.ts";
import type { Encoder } from "../shared/linear-probe.ts";
import type { Row } from "../shared/report.ts";
import { encoderOf, type TextFile } from "./embeddings.ts";

const BENCH = "evaluation";

export interface Case<T = unknown> {
  readonly name: string;
  /** The texts whose embeddings it needs. */
  readonly files: readonly TextFile[];
  /** About how many seconds of one core it takes beside these. */
  readonly seconds: number;
  /** What it has measured, now or before. */
  measure(): Promise<T>;
  /** Null: it has not been measured. */
  stored(): T | null;
}

/** Cases, and the rows of those that are stored. */
export interface Topic {
  readonly cases: readonly Case[];
  rows(): Row[];
}

/** A case that has the encoder of its files. */
export function makeCase<T>(
  { name, files, seconds }: Pick<Case, "name" | "files" | "seconds">,
  measure: (encoder: Encoder) => T,
): Case<T> {
  return {
    name,
    files,
    seconds,
    measure: () => cached(BENCH, name, async () => measure(await encoderOf(files))),
    stored: () => readStored<T>(BENCH, name),
  };
}

/** The name of a case, and what it has measured, of those that are stored. */
export function storedResults<T>(cases: readonly Case<T>[]): { readonly name: string; readonly result: T }[] {
  return cases.flatMap(({ name, stored }) => {
    const result = stored();
    return result === null ? [] : [{ name, result }];
  });
}

export function resultsOf<T>(cases: readonly Case<T>[]): T[] {
  return storedResults(cases).map(({ result }) => result);
}
