/** How many examples of a test set a version was trained on. */
import { ok, type Result } from "../../core/failure.ts";
import type { Transactions } from "../transactions.ts";
import { selectDataset } from "./datasets.ts";
import { findRevision, rowsAt } from "./revisions.ts";

/** A dataset, by its number, at a revision. */
export interface DatasetRevision {
  readonly id: number;
  readonly revision: number;
}

/** What was trained on: that of a version of a head, or a dataset by its name. */
export type TrainedData =
  | { readonly head: string; readonly version: number }
  | { readonly dataset: string; readonly revision: number };

/** Positions whose rows are read at a time: some ten milliseconds of work. */
const POSITIONS_PER_READ = 2_000;

/**
 * For each training, the number of examples of a test set whose input it had, apart from case and spacing; null where the
 * examples that it was trained on are not kept. Other calls are served between two parts of them.
 */
export async function countTrainedOn(
  ledger: Transactions,
  testSet: DatasetRevision,
  trainings: readonly TrainedData[],
): Promise<Result<(number | null)[]>> {
  const examplesByGroup = new Map<bigint, number>();
  const read = await readGroups(ledger, testSet, (group) => {
    examplesByGroup.set(group, (examplesByGroup.get(group) ?? 0) + 1);
  });
  if (!read) return ok(trainings.map(() => null));
  const counts: (number | null)[] = [];
  for (const training of trainings) {
    const trained = ledger.read((sql) => ok(findTrainedData(sql, training)));
    if (!trained.ok) return trained;
    const groups = new Set<bigint>();
    const isKept =
      trained.value !== null &&
      (await readGroups(ledger, trained.value, (group) => {
        if (examplesByGroup.has(group)) groups.add(group);
      }));
    const count = [...groups].reduce((sum, group) => sum + (examplesByGroup.get(group) ?? 0), 0);
    counts.push(isKept ? count : null);
  }
  return ok(counts);
}

function findTrainedData(sql: SqlStorage, training: TrainedData): DatasetRevision | null {
  const query =
    "head" in training
      ? "SELECT dataset AS id, revision FROM head_versions JOIN heads ON heads.id = head WHERE name = ? AND version = ? AND dataset IS NOT NULL AND revision IS NOT NULL"
      : "SELECT id, ?2 AS revision FROM datasets WHERE name = ?1 AND revision >= ?2";
  const bindings = "head" in training ? [training.head, training.version] : [training.dataset, training.revision];
  return sql.exec<{ id: number; revision: number }>(query, ...bindings).toArray()[0] ?? null;
}

/** Visits the hash of each example's input, apart from case and spacing. False if the revision is not kept. */
async function readGroups(
  ledger: Transactions,
  { id, revision }: DatasetRevision,
  visit: (group: bigint) => void,
): Promise<boolean> {
  for (let start: number | null = 0; start !== null; await scheduler.wait(0)) {
    const from: number = start;
    const read = ledger.read((sql) => {
      const dataset = selectDataset(sql, "id", id);
      if (dataset === null || !findRevision(sql, dataset, revision).ok) return ok(false);
      const query = rowsAt(dataset, revision, "group_hash", "position >= ?3 AND position < ?4");
      const end = from + POSITIONS_PER_READ;
      for (const row of sql.exec<{ group_hash: ArrayBuffer }>(query, id, revision, from, end))
        visit(new BigUint64Array(row.group_hash)[0] ?? 0n);
      start = end < dataset.next_position ? end : null;
      return ok(true);
    });
    if (!read.ok || !read.value) return false;
  }
  return true;
}
