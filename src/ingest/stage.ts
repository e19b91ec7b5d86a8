/** Stages the rows of an import in batches. */
import type { RowError, StagedExample } from "../api/examples.ts";
import { ok, type Result } from "../core/failure.ts";
import { limits } from "../core/limits.ts";
import { BodyError } from "./body.ts";
import type { ImportRow } from "./checked-row.ts";
import { MAX_ERRORS_SHOWN, tooManyRowsError } from "./rows.ts";

/** Bounds of one batch, which the ledger reads in some milliseconds. */
const MAX_BATCH_ROWS = 500;
const MAX_BATCH_CHARACTERS = 1_000_000;
/** Rows that are read without a pause, in some milliseconds. Pauses, which take one each, let other requests be served. */
const ROWS_PER_STEP = 250;

export interface StageSummary {
  /** Without empty ones. */
  readonly rows: number;
  readonly rejected: number;
  /** Of the first rejected rows. */
  readonly errors: readonly RowError[];
  /** What is wrong in the first rejected row. */
  readonly firstParam: string | undefined;
}

/** Reads rows to their end, calls `visit` with each, and gives the valid ones to `stage`. */
export async function stageRows(
  source: AsyncIterable<ImportRow>,
  visit: (row: ImportRow) => void,
  stage: (rows: StagedExample[]) => Promise<Result<null>>,
): Promise<Result<StageSummary>> {
  const errors: RowError[] = [];
  let firstParam: string | undefined;
  let [rowsRead, emptyRows, rejected] = [0, 0, 0];
  let batch: StagedExample[] = [];
  let batchCharacters = 0;
  let rowsInStep = 0;
  try {
    for await (const item of source) {
      if (++rowsRead > limits.import_rows) throw tooManyRowsError(rowsRead);
      visit(item);
      if (++rowsInStep > ROWS_PER_STEP) {
        await scheduler.wait(0);
        rowsInStep = 0;
      }
      if (item === null) {
        emptyRows++;
        continue;
      }
      if ("error" in item) {
        rejected++;
        if (errors.length === 0) firstParam = item.param;
        if (errors.length < MAX_ERRORS_SHOWN) errors.push(item.error);
        continue;
      }
      batch.push(item.row);
      batchCharacters += item.row.input.length + item.row.target.length;
      if (batch.length < MAX_BATCH_ROWS && batchCharacters < MAX_BATCH_CHARACTERS) continue;
      const staged = await stage(batch);
      if (!staged.ok) return staged;
      batch = [];
      batchCharacters = 0;
      // To wait for the ledger is a pause as well.
      rowsInStep = 0;
    }
    const staged = batch.length === 0 ? ok(null) : await stage(batch);
    return staged.ok ? ok({ rows: rowsRead - emptyRows, rejected, errors, firstParam }) : staged;
  } catch (error) {
    if (error instanceof BodyError) return { ok: false, failure: error.failure };
    throw error;
  }
}
