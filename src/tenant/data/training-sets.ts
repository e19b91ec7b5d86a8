import { HASH_BYTES } from "../../core/block.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { BLOCK_ROWS } from "../../store/blocks.ts";
import type { RowsToEmbed } from "../../store/gather.ts";
import type { Transactions } from "../transactions.ts";
import { readStoredBlocks, type StoredBlocks } from "./blocks.ts";
import { type DatasetRow, findDataset, selectDataset } from "./datasets.ts";
import { findRevision, rowsAt, scanRows } from "./revisions.ts";

/** What training reads of a dataset. Inputs are read later, and only those without a stored embedding. */
export interface TrainingRows extends RowsToEmbed {
  readonly dataset: DatasetRow;
  /** Blocks that a training writes are added. */
  readonly blocks: Map<number, string>;
  /** Rows with equal numbers have the same input, apart from case and spacing. */
  readonly groups: Int32Array;
  /** JSON of each row's target. */
  readonly targets: readonly string[];
  /** Bytes of all inputs; texts in UTF-8. */
  readonly inputBytes: number;
  /** The inputs whose embeddings are not stored: how many, and their bytes. */
  readonly missingInputs: { readonly count: number; readonly bytes: number };
}

interface Row extends Record<string, SqlStorageValue> {
  position: number;
  input_hash: ArrayBuffer;
  group_hash: ArrayBuffer;
  target: string;
  bytes: number;
  target_bytes: number;
}

const TRAINING_COLUMNS =
  "position, input_hash, group_hash, target, octet_length(input) AS bytes, octet_length(target) AS target_bytes";

/** Characters or bytes of inputs that one answer holds. A remote call returns at most 32 MiB. */
const MAX_INPUTS_SIZE = 4_000_000;
/** The same of rows for a batch endpoint. */
const MAX_ROWS_SIZE = 250_000;

/** Positions whose rows are read at a time: some ten milliseconds of work. */
const POSITIONS_PER_READ = 2_000;

/**
 * The rows of a dataset at a revision. Other calls are served between two parts of them. Fails if the dataset or the
 * revision is not kept, or if the targets are too large for one remote call.
 *
 * @param knownGroups hashes of groups that get the first numbers
 */
export async function readTrainingRows(
  ledger: Transactions,
  name: string,
  backbone: string,
  atRevision?: number,
  knownGroups: readonly Uint8Array[] = [],
): Promise<Result<TrainingRows>> {
  const source = ledger.read((sql) => findDatasetAt(sql, name, atRevision));
  if (!source.ok) return source;
  const { dataset, revision, examples } = source.value;
  const collector = createCollector(examples, knownGroups);
  for (let start = 0; start < dataset.next_position; start += POSITIONS_PER_READ) {
    if (start > 0) await scheduler.wait(0);
    const read = ledger.read((sql) => {
      // The dataset may have changed since the last part: its rows at this revision are then among the past ones.
      const current = selectDataset(sql, "id", dataset.id);
      if (current === null) return fail("not_found", "The dataset was deleted.");
      const storedRevision = findRevision(sql, current, revision);
      if (!storedRevision.ok) return storedRevision;
      const query = rowsAt(current, revision, TRAINING_COLUMNS, "position >= ?3 AND position < ?4");
      const end = start + POSITIONS_PER_READ;
      for (const row of sql.exec<Row>(`${query} ORDER BY position`, dataset.id, revision, start, end))
        collector.add(row);
      return ok(null);
    });
    if (!read.ok) return read;
  }
  const { targetBytes } = collector;
  if (targetBytes > limits.training_target_bytes) return targetsTooLarge(targetBytes);
  return ledger.read((sql, now) => {
    const current = selectDataset(sql, "id", dataset.id);
    const { keys, isEmbedded } = readStoredBlocks(sql, dataset.id, backbone, now);
    // What is recorded is of the present rows. Those of another revision may differ.
    const isPresent = current?.revision === revision;
    const rows = collector.rows((position) => isPresent && isEmbedded(position));
    return ok({ dataset: { ...dataset, revision }, ...rows, blocks: new Map(keys), isPartial: !isPresent });
  });
}

function findDatasetAt(
  sql: SqlStorage,
  name: string,
  atRevision: number | undefined,
): Result<{ readonly dataset: DatasetRow; readonly revision: number; readonly examples: number }> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  const revision = atRevision ?? dataset.value.revision;
  const storedRevision = findRevision(sql, dataset.value, revision);
  if (!storedRevision.ok) return storedRevision;
  return ok({ dataset: dataset.value, revision, examples: storedRevision.value.examples });
}

/** Collects the rows of a training, of which there are at most so many. */
function createCollector(examples: number, knownGroups: readonly Uint8Array[]) {
  const positions = new Uint32Array(examples);
  const bytes = new Uint32Array(examples);
  const inputHashes = new Uint8Array(examples * HASH_BYTES);
  const groups = new Int32Array(examples);
  const targets: string[] = [];
  const groupNumbers = new Map<bigint, number>();
  const numberOf = (groupHash: ArrayBuffer) => {
    const hash = new BigUint64Array(groupHash)[0] ?? 0n;
    const number = groupNumbers.get(hash) ?? groupNumbers.size;
    groupNumbers.set(hash, number);
    return number;
  };
  for (const groupHash of knownGroups) numberOf(groupHash.slice().buffer);
  let targetBytes = 0;
  return {
    get targetBytes() {
      return targetBytes;
    },
    add(row: Row): void {
      targetBytes += row.target_bytes;
      // The rest is only counted.
      if (targetBytes > limits.training_target_bytes) return;
      const index = targets.push(row.target) - 1;
      positions[index] = row.position;
      bytes[index] = row.bytes;
      inputHashes.set(new Uint8Array(row.input_hash), index * HASH_BYTES);
      groups[index] = numberOf(row.group_hash);
    },
    rows(isEmbedded: StoredBlocks["isEmbedded"]) {
      const count = targets.length;
      const incompleteBlocks = new Set<number>();
      const missingInputs = { count: 0, bytes: 0 };
      let inputBytes = 0;
      for (let i = 0; i < count; i++) {
        const [position, size] = [positions[i] ?? 0, bytes[i] ?? 0];
        inputBytes += size;
        if (isEmbedded(position)) continue;
        incompleteBlocks.add(Math.floor(position / BLOCK_ROWS));
        missingInputs.count++;
        missingInputs.bytes += size;
      }
      return {
        positions: positions.subarray(0, count),
        inputHashes: inputHashes.subarray(0, count * HASH_BYTES),
        groups: groups.subarray(0, count),
        targets,
        inputBytes,
        missingInputs,
        incompleteBlocks,
      };
    },
  };
}

function targetsTooLarge(bytes: number): Result<never> {
  return fail(
    "edge_budget_exceeded",
    "The labels of this dataset's examples are larger than one request may use. Use fewer examples, or fewer or shorter labels.",
    { details: { estimate: { bytes }, budget: { bytes: limits.training_target_bytes } } },
  );
}

/**
 * The inputs at these rising positions at a revision; null where no example has the position. Of large inputs only the
 * first ones, at least one: the caller asks again for the others.
 */
export function readInputs(
  sql: SqlStorage,
  id: number,
  positions: readonly number[],
  revision?: number,
): (string | Uint8Array | null)[] {
  const inputs = new Map<number, string | Uint8Array>();
  const first = positions[0] ?? 0;
  const last = positions.at(-1) ?? 0;
  const dataset = selectDataset(sql, "id", id);
  if (dataset === null) return positions.map(() => null);
  const atRevision = revision ?? dataset.revision;
  const query = rowsAt(dataset, atRevision, "position, input", "position BETWEEN ?3 AND ?4");
  const cursor = sql.exec<{ position: number; input: string | ArrayBuffer }>(
    `${query} ORDER BY position`,
    id,
    atRevision,
    first,
    last,
  );
  let lastRead = last;
  let size = 0;
  for (const row of cursor) {
    const input = typeof row.input === "string" ? row.input : new Uint8Array(row.input);
    inputs.set(row.position, input);
    size += input.length;
    if (size < MAX_INPUTS_SIZE) continue;
    lastRead = row.position;
    break;
  }
  return positions.filter((position) => position <= lastRead).map((position) => inputs.get(position) ?? null);
}

/** The ids of the examples at these positions at a revision. */
export function readExampleIds(
  sql: SqlStorage,
  id: number,
  positions: readonly number[],
  revision: number,
): ReadonlyMap<number, string> {
  const dataset = selectDataset(sql, "id", id);
  if (dataset === null) return new Map();
  const query = rowsAt(dataset, revision, "position, id", "position = ?3");
  return new Map(
    positions.flatMap((position) =>
      sql
        .exec<{ position: number; id: string }>(query, id, revision, position)
        .toArray()
        .map((row) => [row.position, row.id] as const),
    ),
  );
}

/** A row as the batch endpoint reads it. */
export interface DataRow {
  /** Of the example; null for the row of a file. */
  readonly id: string | null;
  /** In its dataset; null for the row of a file. */
  readonly position: number | null;
  readonly input: string | Uint8Array;
  readonly target: string;
  readonly groupHash: Uint8Array;
}

/**
 * The next rows above a position at a revision, by default the present one: oldest first, a bounded number of characters
 * of them, and an empty list at the end. Fails if the dataset no longer exists, or the revision is not kept.
 */
export function readRows(
  sql: SqlStorage,
  id: number,
  afterPosition: number,
  atRevision: number | undefined,
): Result<{ readonly rows: readonly DataRow[]; readonly last: number; readonly revision: number }> {
  const dataset = selectDataset(sql, "id", id);
  if (dataset === null) return fail("not_found", "The dataset was deleted.");
  const revision = atRevision ?? dataset.revision;
  const storedRevision = findRevision(sql, dataset, revision);
  if (!storedRevision.ok) return storedRevision;
  const cursor = scanRows<{
    position: number;
    id: string;
    input: string | ArrayBuffer;
    target: string;
    group_hash: ArrayBuffer;
  }>(sql, dataset, revision, "position, id, input, target, group_hash", afterPosition);
  const rows: DataRow[] = [];
  let lastPosition = afterPosition;
  let size = 0;
  for (const { position, id, input, target, group_hash } of cursor) {
    rows.push({
      id,
      position,
      input: typeof input === "string" ? input : new Uint8Array(input),
      target,
      groupHash: new Uint8Array(group_hash),
    });
    lastPosition = position;
    size += (typeof input === "string" ? input.length : input.byteLength) + target.length;
    if (size > MAX_ROWS_SIZE) break;
  }
  return ok({ rows, last: lastPosition, revision });
}
