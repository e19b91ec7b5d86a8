import { fail, ok, type Result } from "../core/failure.ts";

/** One page of a list, newest first, in the contract's shape. */
export interface Page<T> {
  readonly object: "list";
  readonly data: readonly T[];
  readonly first_id: string | null;
  readonly last_id: string | null;
  readonly has_more: boolean;
}

export interface PageRequest {
  readonly limit: number;
  readonly after?: string | undefined;
}

/**
 * A page of rows ordered by a falling number. `position` finds the number of the row that `after` names, or null;
 * `rows` reads at most `count` rows below a number; `name` is what `after` names an object by.
 */
export function page<Row, T extends { readonly id: string }>(
  request: PageRequest,
  position: (id: string) => number | null,
  rows: (below: number, count: number) => readonly Row[],
  toObject: (row: Row) => T,
  name: (object: T) => string = ({ id }) => id,
): Result<Page<T>> {
  const below = request.after === undefined ? Number.MAX_SAFE_INTEGER : position(request.after);
  if (below === null)
    return fail("invalid_parameter", `No object '${request.after}' in this list to continue after.`, {
      param: "after",
    });
  const found = rows(below, request.limit + 1);
  const data = found.slice(0, request.limit).map(toObject);
  const [first, last] = [data[0], data.at(-1)];
  return ok({
    object: "list",
    data,
    first_id: first === undefined ? null : name(first),
    last_id: last === undefined ? null : name(last),
    has_more: found.length > request.limit,
  });
}
