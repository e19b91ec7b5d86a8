import type { List, PageRequest } from "../api/lists.ts";
import { fail, ok, type Result } from "../core/failure.ts";

/** What a page holds at most in characters, but for its last object: a message has at most 32 MiB. */
const MAX_PAGE_CHARACTERS = 4_000_000;

/**
 * A page of rows ordered by a falling number. `position` finds the number of the row that `after` names, or null;
 * `rows` reads at most `count` rows below a number; `name` is what `after` names an object by; `size` is what it costs
 * to make and send. A page of large objects has fewer than were asked for.
 */
export function paginate<Row, T extends { readonly id: string }>(
  request: PageRequest,
  findPosition: (id: string) => number | null,
  readRows: (cursor: number, count: number) => Iterable<Row>,
  toObject: (row: Row) => T,
  getId: (object: T) => string = ({ id }) => id,
  getSize: (object: T) => number = (object) => JSON.stringify(object).length,
): Result<List<T>> {
  const cursor = request.after === undefined ? Number.MAX_SAFE_INTEGER : findPosition(request.after);
  if (cursor === null)
    return fail("invalid_parameter", `No object '${request.after}' in this list to continue after.`, {
      param: "after",
    });
  const data: T[] = [];
  let total = 0;
  let hasMore = false;
  for (const row of readRows(cursor, request.limit + 1)) {
    hasMore = data.length === request.limit || total > MAX_PAGE_CHARACTERS;
    if (hasMore) break;
    const object = toObject(row);
    data.push(object);
    total += getSize(object);
  }
  const [first, last] = [data[0], data.at(-1)];
  return ok({
    object: "list",
    data,
    first_id: first === undefined ? null : getId(first),
    last_id: last === undefined ? null : getId(last),
    has_more: hasMore,
  });
}
