/** Which versions of heads hold embeddings of which examples, and the examples that an explanation shows. */
import { ok, type Result } from "../../core/failure.ts";
import { selectDataset } from "../data/datasets.ts";
import { rowsAt } from "../data/revisions.ts";
import type { Transactions } from "../transactions.ts";

/** Notes what the newest version of a head holds: positions of examples in the dataset that it was trained on. */
export function recordVectors(sql: SqlStorage, head: number, version: number, positions: Uint32Array | null): void {
  if (positions === null || positions.length === 0) return;
  sql.exec(
    `INSERT INTO version_vectors (dataset, head, version, positions)
     SELECT dataset, head, version, ?3 FROM head_versions WHERE head = ?1 AND version = ?2 AND dataset IS NOT NULL`,
    head,
    version,
    positions.slice().buffer,
  );
}

/** Versions that are read between two other requests: 4 KB each. */
const VERSIONS_PER_READ = 200;
/** An answer names the newest versions alone. */
const MAX_VERSIONS = 1_000;

/** The numbers of the versions that hold the embedding of one of these examples, the newest first. */
export async function findVersionsWithVectors(
  ledger: Transactions,
  dataset: number,
  positions: ReadonlySet<number>,
): Promise<number[]> {
  const found: number[] = [];
  if (positions.size === 0) return found;
  for (let before: number | null = Number.MAX_SAFE_INTEGER; before !== null && found.length < MAX_VERSIONS; ) {
    const below: number = before;
    const read = ledger.read((sql) =>
      ok(
        sql
          .exec<{ number: number; positions: ArrayBuffer }>(
            "SELECT number, positions FROM version_vectors WHERE dataset = ? AND number < ? ORDER BY number DESC LIMIT ?",
            dataset,
            below,
            VERSIONS_PER_READ,
          )
          .toArray(),
      ),
    );
    if (!read.ok) return found;
    for (const row of read.value)
      if (new Uint32Array(row.positions).some((position) => positions.has(position))) found.push(row.number);
    before = read.value.length < VERSIONS_PER_READ ? null : (read.value.at(-1)?.number ?? null);
    if (before !== null) await scheduler.wait(0);
  }
  return found.slice(0, MAX_VERSIONS);
}

/** The numbers of the versions that hold the embedding of an example that goes with a revision, the newest first. */
export async function findVersionsWithRemoved(ledger: Transactions, dataset: number, revision: number) {
  return findVersionsWithVectors(ledger, dataset, await readRemovedPositions(ledger, dataset, revision));
}

const POSITIONS_PER_READ = 5_000;

/** The positions of the examples that go with a revision. */
async function readRemovedPositions(ledger: Transactions, id: number, revision: number): Promise<Set<number>> {
  const positions = new Set<number>();
  for (let after: number | null = -1; after !== null; await scheduler.wait(0)) {
    const above: number = after;
    const read = ledger.read((sql) =>
      ok(
        sql
          .exec<{ position: number }>(
            `SELECT position FROM past_examples INDEXED BY past_examples_removed
             WHERE dataset = ? AND removed = ? AND position > ? ORDER BY position LIMIT ?`,
            id,
            revision,
            above,
            POSITIONS_PER_READ,
          )
          .toArray(),
      ),
    );
    const rows = read.ok ? read.value : [];
    for (const { position } of rows) positions.add(position);
    after = rows.length < POSITIONS_PER_READ ? null : (rows.at(-1)?.position ?? null);
  }
  return positions;
}

/** What an answer shows of versions by these numbers, `head@version` each: nothing without any. Deleted ones are left out. */
export function describeVersions(
  sql: SqlStorage,
  numbers: readonly number[],
): { readonly versions_with_vectors?: readonly string[] } {
  const names = numbers.flatMap((number) =>
    sql
      .exec<{ name: string }>(
        "SELECT name || '@' || version AS name FROM version_vectors JOIN heads ON heads.id = head WHERE number = ?",
        number,
      )
      .toArray()
      .map(({ name }) => name),
  );
  return names.length === 0 ? {} : { versions_with_vectors: names };
}

/** An example as a version was trained on it. */
export interface TrainedExample {
  readonly id: string;
  /** Null: it is no text, or there is no room for it. */
  readonly text: string | null;
  /** JSON. */
  readonly target: string;
}

/** Characters of texts that one answer holds. */
const MAX_TEXT_SIZE = 2_000_000;

/**
 * The examples at these positions of the dataset that a version was trained on, as they were then. Those that have been
 * deleted are left out.
 */
export function readTrainedExamples(
  sql: SqlStorage,
  { id, version, sha256 }: { readonly id: string; readonly version: number; readonly sha256: string },
  positions: readonly number[],
): Result<ReadonlyMap<number, TrainedExample>> {
  const trained = sql
    .exec<{ dataset: number | null; revision: number | null }>(
      "SELECT dataset, revision FROM head_versions JOIN heads ON heads.id = head WHERE name = ? AND version = ? AND sha256 = ?",
      id,
      version,
      sha256,
    )
    .toArray()[0];
  const dataset = trained?.dataset == null ? null : selectDataset(sql, "id", trained.dataset);
  const revision = trained?.revision ?? null;
  const examples = new Map<number, TrainedExample>();
  if (dataset === null || revision === null) return ok(examples);
  const query = rowsAt(
    dataset,
    revision,
    "position, id, input, target",
    "position IN (SELECT value FROM json_each(?3))",
  );
  let size = 0;
  const rows = sql.exec<{ position: number; id: string; input: string | ArrayBuffer; target: string }>(
    query,
    dataset.id,
    revision,
    JSON.stringify([...new Set(positions)]),
  );
  for (const { position, id: example, input, target } of rows) {
    const text = typeof input === "string" ? input : "";
    const hasRoom = text !== "" && size + text.length <= MAX_TEXT_SIZE;
    if (hasRoom) size += text.length;
    examples.set(position, { id: example, text: hasRoom ? text : null, target });
  }
  return ok(examples);
}
