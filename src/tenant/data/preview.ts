/** What the merge of an import would answer, counted in steps of a few milliseconds. Nothing is changed. */
import { ok, type Result } from "../../core/failure.ts";
import type { Transactions } from "../transactions.ts";
import { toDataset } from "./datasets.ts";
import { checkSize, findImport, IS_NEW, type OpenImport } from "./imports.ts";
import { countTarget } from "./label-counts.ts";
import { type ImportResult, nextLines } from "./merge.ts";

interface Counts {
  added: number;
  updated: number;
  readonly labels: Map<string, number>;
}

export async function previewImport(ledger: Transactions, id: string): Promise<Result<ImportResult>> {
  const counts: Counts = { added: 0, updated: 0, labels: new Map() };
  for (let line = 0; ; await scheduler.wait(0)) {
    const open = ledger.read((sql) => findImport(sql, id));
    if (!open.ok) return open;
    const { sql } = ledger.storage;
    const { last, areAll } = nextLines(sql, { number: open.value.row.number, line });
    countChanges(sql, open.value, line, last, counts);
    if (areAll) return toResult(sql, open.value, counts, Date.now());
    line = last;
  }
}

/** Counts what the rows of some lines would change. */
function countChanges(
  sql: SqlStorage,
  { row, dataset }: OpenImport,
  after: number,
  last: number,
  counts: Counts,
): void {
  const rows = sql.exec<{ target: string; previous: string | null; is_new: number }>(
    `SELECT s.target, e.target AS previous, ${IS_NEW} AS is_new FROM staged AS s
     LEFT JOIN examples AS e ON e.dataset = ?1 AND e.id = s.id AND e.content_hash <> s.content_hash
     WHERE s.import = ?2 AND s.line > ?3 AND s.line <= ?4`,
    dataset.id,
    row.number,
    after,
    last,
  );
  for (const { target, previous, is_new } of rows) {
    if (is_new === 1) counts.added++;
    else if (previous !== null) counts.updated++;
    else continue;
    if (previous !== null) countTarget(counts.labels, dataset.task, previous, -1);
    countTarget(counts.labels, dataset.task, target, 1);
  }
}

function toResult(
  sql: SqlStorage,
  { row, dataset }: OpenImport,
  { added, updated, labels }: Counts,
  now: number,
): Result<ImportResult> {
  const size = checkSize(sql, row.number, dataset);
  if (!size.ok) return size;
  const present = toDataset(sql, dataset, now);
  const labelCounts = new Map(Object.entries(present.labels));
  for (const [label, difference] of labels) labelCounts.set(label, (labelCounts.get(label) ?? 0) + difference);
  const sorted = [...labelCounts].filter(([, n]) => n > 0).sort(([a], [b]) => (a < b ? -1 : 1));
  return ok({
    added,
    updated: updated + row.superseded,
    unchanged: row.rows - added - updated - row.superseded,
    dataset: {
      ...present,
      examples: dataset.examples + added,
      labels: Object.fromEntries(sorted),
      revision: dataset.revision + Math.sign(added + updated),
    },
  });
}
