import type { List, PageRequest } from "../api/lists.ts";
import { fail, ok, type Result } from "../core/failure.ts";

/** Characters of a page, not counting its last object. A remote call returns at most 32 MiB. */
const MAX_PAGE_CHARACTERS = 4_000_000;

/** A list whose rows are numbered; it shows the highest number first. */
export interface ListSource<Row, T> {
  /** The number of the row that `after` names, also if it was deleted lately; null if there is none. */
  findPosition(id: string): number | null;
  /** At most `count` rows with numbers below `cursor`, falling. */
  readRows(cursor: number, count: number): Iterable<Row>;
  toObject(row: Row): T;
  /** What `after` names an object by; its id by default. */
  getId?(object: T): string;
  /** What an object costs to make and to send, in characters; those of its JSON by default. */
  getSize?(object: T): number;
}

/** One page of a list. It has fewer objects than were asked for if they are large. */
export function paginate<Row, T extends { readonly id: string }>(
  request: PageRequest,
  list: ListSource<Row, T>,
): Result<List<T>> {
  const { findPosition, readRows, toObject, getId = ({ id }) => id } = list;
  const { getSize = (object) => JSON.stringify(object).length } = list;
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
