/** Searches of a dataset's examples. They read in bounded steps, between which the ledger serves other calls. */
import type { Example } from "../../api/examples.ts";
import type { List, PageRequest } from "../../api/lists.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { paginate } from "../page.ts";
import type { Transactions } from "../transactions.ts";
import { type DatasetRow, findDataset, selectDataset } from "./datasets.ts";
import { EXAMPLE_COLUMNS, type ExampleRow, findExamplePosition, toExample } from "./examples.ts";
import { rowsAt } from "./revisions.ts";

/** Selects the examples that have all that is given. */
export interface ExampleFilter {
  readonly ids?: readonly string[] | undefined;
  readonly label?: string | undefined;
  /** A part of the text, taken literally. */
  readonly contains?: string | undefined;
  /** Unix seconds; those that were added earlier. */
  readonly before?: number | undefined;
}

/** Bounds of one step: of what is read, and of what is found. */
const MAX_ROWS_READ = 2_000;
const MAX_BYTES_READ = 2_000_000;
const MAX_ROWS_FOUND = 250;
const MAX_BYTES_FOUND = 250_000;

export interface SearchStep {
  /** Falling. */
  readonly positions: readonly number[];
  /** The next step looks below this position; null if none is left to read. */
  readonly below: number | null;
}

/** Finds the next examples at a revision below a position that a filter selects, newest first. */
export function searchStep(
  sql: SqlStorage,
  dataset: DatasetRow,
  revision: number,
  filter: ExampleFilter,
  below: number,
): SearchStep {
  const { where, matches, bindings } = toConditions(dataset.task, filter);
  const columns = `position, octet_length(input) AS bytes, ${matches} AS matches`;
  const query = `${rowsAt(dataset, revision, columns, `position < ?3 AND ${where}`)} ORDER BY position DESC`;
  const rows = sql.exec<{ position: number; bytes: number; matches: number }>(
    query,
    dataset.id,
    revision,
    Math.min(below, dataset.next_position),
    ...bindings,
  );
  const positions: number[] = [];
  let [rowsRead, bytesRead, bytesFound] = [0, 0, 0];
  for (const { position, bytes, matches } of rows) {
    rowsRead++;
    bytesRead += bytes;
    if (matches === 1) {
      positions.push(position);
      bytesFound += bytes;
    }
    const isFull = positions.length >= MAX_ROWS_FOUND || bytesFound >= MAX_BYTES_FOUND;
    if (isFull || rowsRead >= MAX_ROWS_READ || bytesRead >= MAX_BYTES_READ) return { positions, below: position };
  }
  return { positions, below: null };
}

/** A filter in SQL: `where` is found by an index, and `matches` has to be looked for. Bindings begin with ?4. */
function toConditions(task: Task, { ids, label, contains, before }: ExampleFilter) {
  const [where, matches, bindings] = [["TRUE"], ["TRUE"], [] as (string | number)[]];
  const bind = (value: string | number) => `?${bindings.push(value) + 3}`;
  if (ids !== undefined) where.push(`id IN (SELECT value FROM json_each(${bind(JSON.stringify(ids))}))`);
  // A single label finds the index on `target`. One of several labels is looked for in the JSON.
  if (label !== undefined && task === "single_label") where.push(`target = json_quote(${bind(label)})`);
  if (label !== undefined && task !== "single_label")
    matches.push(`EXISTS (SELECT 1 FROM json_each(target) WHERE value = ${bind(label)})`);
  // Not LIKE: its patterns end at 50 bytes, and have wildcards.
  if (contains !== undefined) matches.push(`instr(input, ${bind(contains)}) > 0`);
  if (before !== undefined) matches.push(`created_at < ${bind(before)}`);
  return { where: where.join(" AND "), matches: matches.join(" AND "), bindings };
}

/** Refuses a filter that a dataset's examples cannot have. */
export function checkFilter({ task, modality, name }: DatasetRow, { label, contains }: ExampleFilter): Result<null> {
  if (label !== undefined && task === "regression")
    return fail("task_mismatch", `The examples of dataset '${name}' have values and no labels.`, { param: "label" });
  if (contains !== undefined && modality !== "text")
    return fail("modality_mismatch", `The examples of dataset '${name}' are embeddings and have no text.`, {
      param: "contains",
    });
  return ok(null);
}

/**
 * The positions of the examples that a filter selects at the dataset's revision, newest first, at most `limit` of those
 * below a position.
 */
export async function searchExamples(
  ledger: Transactions,
  { id, revision }: DatasetRow,
  filter: ExampleFilter,
  { below, limit }: { readonly below: number; readonly limit: number },
): Promise<Result<number[]>> {
  const found: number[] = [];
  for (let next: number | null = below; ; await scheduler.wait(0)) {
    const from: number = next;
    const step = ledger.read((sql) => {
      const dataset = selectDataset(sql, "id", id);
      if (dataset === null) return fail("not_found", "The dataset was deleted while it was searched.");
      return ok(searchStep(sql, dataset, revision, filter, from));
    });
    if (!step.ok) return step;
    found.push(...step.value.positions);
    next = step.value.below;
    if (next === null || found.length >= limit) return ok(found.slice(0, limit));
  }
}

/** A page of the examples that a filter selects. */
export async function listExamples(
  ledger: Transactions,
  name: string,
  filter: ExampleFilter,
  request: PageRequest,
): Promise<Result<List<Example>>> {
  const begun = ledger.read((sql) => {
    const dataset = findDataset(sql, name);
    if (!dataset.ok) return dataset;
    const checked = checkFilter(dataset.value, { contains: filter.contains });
    if (!checked.ok) return checked;
    const { after } = request;
    return ok({
      dataset: dataset.value,
      below: after === undefined ? dataset.value.next_position : findExamplePosition(sql, dataset.value, after),
    });
  });
  if (!begun.ok) return begun;
  const { dataset, below } = begun.value;
  const bounds = { below: below ?? 0, limit: request.limit + 1 };
  const positions = below === null ? ok([]) : await searchExamples(ledger, dataset, filter, bounds);
  if (!positions.ok) return positions;
  return ledger.read((sql) =>
    paginate(request, {
      findPosition: () => below,
      readRows: () => readRowsAt(sql, dataset, positions.value),
      toObject: (row) => toExample(dataset.task, row),
    }),
  );
}

/** The examples at these positions, one by one. */
function* readRowsAt(sql: SqlStorage, { id, revision }: DatasetRow, positions: readonly number[]) {
  const dataset = selectDataset(sql, "id", id);
  if (dataset === null) return;
  const query = rowsAt(dataset, revision, EXAMPLE_COLUMNS, "position = ?3");
  for (const position of positions) yield* sql.exec<ExampleRow>(query, id, revision, position);
}
