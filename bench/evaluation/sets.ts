/** The sets that evaluation.ts measures on. */
import { join } from "node:path";
import { readTextDatasets, readTexts, type Split } from "../shared/text-datasets.ts";
import type { TextFile } from "./embeddings.ts";

const SETS =
  /^(hwu64 full|clinc150_full|snips full|bitext_support27|mr_polarity 10-fold|goemotions_ekman single|multidogo_\w+)$/;
/** Of a cross-validation. */
const MEASURED_FOLDS = 3;

export interface EvaluationSet {
  readonly name: string;
  readonly seenInPretraining: boolean;
  readonly splits: readonly Split[];
  readonly train: TextFile;
  readonly test: TextFile;
}

export function readSets(folder: string): EvaluationSet[] {
  return readTextDatasets(folder, SETS).map(({ name, seenInPretraining, splits }) => {
    const [{ train, test }] = splits as readonly [Split];
    return {
      name,
      seenInPretraining,
      splits: splits.slice(0, MEASURED_FOLDS),
      train: { name: `${name} train`, rows: train },
      test: { name: `${name} test`, rows: test },
    };
  });
}

/** CLINC150's queries that belong to no intent. */
export function readOutOfScope(folder: string): { readonly train: TextFile; readonly test: TextFile } {
  const read = (set: string, file: string): TextFile => ({
    name: `${set} ${file}`,
    rows: readTexts(join(folder, set, `${file}.csv`)),
  });
  return { train: read("clinc150_oos_plus", "oos_train"), test: read("clinc150_full", "oos_test") };
}
