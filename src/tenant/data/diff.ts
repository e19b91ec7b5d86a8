/** What differs between two revisions of a dataset, read in steps of some milliseconds. */
import type { Difference } from "../../api/revisions.ts";
import { ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { toHex } from "../../lib/hash.ts";
import { type DatasetRow, findDataset } from "./datasets.ts";
import { type ExampleRow, toExample } from "./examples.ts";
import { findRevision } from "./revisions.ts";

/** Bounds of one step. */
const MAX_POSITIONS = 20_000;
const MAX_DIFFERENCES = 250;

interface Version extends Record<string, SqlStorageValue> {
  position: number;
  /** The revision at which it came. */
  revision: number;
  id: string;
  /** null if the example was deleted from every revision. */
  input: string | ArrayBuffer | null;
  target: string | null;
  content_hash: ArrayBuffer | null;
  created_at: number;
}

/** A difference, and the position of its example, by which a list of them is continued. */
export interface DifferenceAt extends Difference {
  readonly position: number;
}

export interface DiffStep {
  readonly differences: readonly DifferenceAt[];
  /** The last position that was read; null if there are no more. */
  readonly last: number | null;
}

/** Two revisions, and the position above which their differences are shown with the examples; null for none. */
export interface DiffParams {
  readonly from: number;
  readonly to: number;
  readonly shownAfter: number | null;
}

/** The differences between two kept revisions among the next positions above one. */
export function diffRevisions(
  sql: SqlStorage,
  name: string,
  { from, to, shownAfter }: DiffParams,
  afterPosition: number,
): Result<DiffStep> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  for (const [param, revision] of Object.entries({ from, to })) {
    const storedRevision = findRevision(sql, dataset.value, revision);
    if (!storedRevision.ok) return { ok: false, failure: { ...storedRevision.failure, param } };
  }
  const { id, task, next_position } = dataset.value;
  const lastPosition = Math.min(afterPosition + MAX_POSITIONS, next_position - 1);
  const positions = sql
    .exec<{ position: number }>(
      `SELECT position FROM examples
         WHERE dataset = ?1 AND position > ?2 AND position <= ?3 AND revision > ?4 AND revision <= ?5
       UNION SELECT position FROM past_examples
         WHERE dataset = ?1 AND position > ?2 AND position <= ?3 AND removed > ?4 AND revision <= ?5
       ORDER BY position LIMIT ?6`,
      id,
      afterPosition,
      lastPosition,
      Math.min(from, to),
      Math.max(from, to),
      MAX_DIFFERENCES,
    )
    .toArray();
  const differences = positions.flatMap(({ position }) => {
    const [previous, present] = [from, to].map((revision) => findVersion(sql, dataset.value, position, revision));
    const difference = compareVersions(task, position, previous, present);
    if (difference === null) return [];
    const isShown = shownAfter !== null && position > shownAfter;
    return [isShown ? difference : { ...difference, example: null, previous: null }];
  });
  const last = positions.length === MAX_DIFFERENCES ? (positions.at(-1)?.position ?? null) : lastPosition;
  return ok({ differences, last: last === null || last >= next_position - 1 ? null : last });
}

function findVersion(sql: SqlStorage, { id }: DatasetRow, position: number, revision: number): Version | undefined {
  const columns = "position, revision, id, input, target, content_hash, created_at";
  return sql
    .exec<Version>(
      `SELECT ${columns} FROM examples WHERE dataset = ?1 AND position = ?2 AND revision <= ?3
       UNION ALL SELECT ${columns} FROM past_examples
         WHERE dataset = ?1 AND position = ?2 AND removed > ?3 AND revision <= ?3`,
      id,
      position,
      revision,
    )
    .toArray()[0];
}

function compareVersions(
  task: Task,
  position: number,
  previous: Version | undefined,
  present: Version | undefined,
): DifferenceAt | null {
  const either = present ?? previous;
  if (either === undefined) return null;
  if (previous && present && hasSameContent(previous, present)) return null;
  return {
    object: "dataset.difference",
    id: either.id,
    type: previous === undefined ? "added" : present === undefined ? "removed" : "changed",
    example: toStored(task, present),
    previous: toStored(task, previous),
    position,
  };
}

/** Whether two versions of a row are equal. Of erased ones only those that are one and the same are known to be. */
function hasSameContent(a: Version, b: Version): boolean {
  if (a.revision === b.revision) return true;
  if (a.content_hash === null || b.content_hash === null) return false;
  return a.id === b.id && toHex(new Uint8Array(a.content_hash)) === toHex(new Uint8Array(b.content_hash));
}

function toStored(task: Task, version: Version | undefined): Difference["example"] {
  if (version === undefined || version.input === null || version.target === null) return null;
  return toExample(task, version as ExampleRow);
}
