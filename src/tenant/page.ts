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

/** What a page holds at most in characters, but for its last object: a message has at most 32 MiB. */
const PAGE_SIZE = 4_000_000;

/**
 * A page of rows ordered by a falling number. `position` finds the number of the row that `after` names, or null;
 * `rows` reads at most `count` rows below a number; `name` is what `after` names an object by; `size` is what it costs
 * to make and send. A page of large objects has fewer than were asked for.
 */
export function page<Row, T extends { readonly id: string }>(
  request: PageRequest,
  position: (id: string) => number | null,
  rows: (below: number, count: number) => Iterable<Row>,
  toObject: (row: Row) => T,
  name: (object: T) => string = ({ id }) => id,
  size: (object: T) => number = (object) => JSON.stringify(object).length,
): Result<Page<T>> {
  const below = request.after === undefined ? Number.MAX_SAFE_INTEGER : position(request.after);
  if (below === null)
    return fail("invalid_parameter", `No object '${request.after}' in this list to continue after.`, {
      param: "after",
    });
  const data: T[] = [];
  let total = 0;
  let more = false;
  for (const row of rows(below, request.limit + 1)) {
    more = data.length === request.limit || total > PAGE_SIZE;
    if (more) break;
    const object = toObject(row);
    data.push(object);
    total += size(object);
  }
  const [first, last] = [data[0], data.at(-1)];
  return ok({
    object: "list",
    data,
    first_id: first === undefined ? null : name(first),
    last_id: last === undefined ? null : name(last),
    has_more: more,
  });
}
