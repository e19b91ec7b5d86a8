/** How many rows of a table one step deletes. A dataset or an import may have hundreds of thousands. */
const MAX_ROWS_PER_STEP = 500;

/**
 * Deletes a bounded number of the rows of a dataset or an import. Each table comes with what its primary key has beside
 * the owner. Answers whether some may be left.
 */
export function deleteRowsOf(
  sql: SqlStorage,
  owner: "dataset" | "import",
  number: number,
  tables: Readonly<Record<string, string>>,
): boolean {
  for (const [table, key] of Object.entries(tables)) {
    const batch = `SELECT ${key} FROM ${table} WHERE ${owner} = ?1 LIMIT ${MAX_ROWS_PER_STEP}`;
    const query = `DELETE FROM ${table} WHERE ${owner} = ?1 AND (${key}) IN (${batch}) RETURNING 1`;
    if (sql.exec(query, number).toArray().length === MAX_ROWS_PER_STEP) return true;
  }
  return false;
}
