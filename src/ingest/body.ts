/** Reads a body as a stream of bounded size. */
import { type Failure, fail, ok, type Result } from "../core/failure.ts";
import { limits } from "../core/limits.ts";
import { measureJson } from "../lib/json-shape.ts";
import { invalidJson } from "./json-error.ts";

/** Thrown while a body is read as a stream. The rest of the body is not read, and nothing is stored. */
export class BodyError extends Error {
  readonly failure: Failure;
  constructor(failure: Failure) {
    super(failure.code);
    this.failure = failure;
  }
}

export function bodyError(...args: Parameters<typeof fail>): BodyError {
  return new BodyError(fail(...args).failure);
}

export const connectionLost: Failure = {
  code: "upload_incomplete",
  message: "The connection ended before the whole body had come. Nothing was changed; send it again.",
};

export const notUtf8Failure: Failure = {
  code: "invalid_json",
  message: "The body is not UTF-8, as JSON must be. Encode it as UTF-8.",
};

/** Passes the chunks of a body on. Throws a BodyError past the limit, or where the connection ends early. */
export async function* limitBytes(
  body: ReadableStream<Uint8Array> | null,
  limit: number,
  message: string,
): AsyncGenerator<Uint8Array> {
  if (body === null) return;
  let actual = 0;
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(() => {
        throw new BodyError(connectionLost);
      });
      if (done) return;
      actual += value.byteLength;
      if (actual > limit) throw bodyError("body_too_large", message, { details: { limit, actual } });
      yield value;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** The body of an import. */
export function limitImportBytes(body: ReadableStream<Uint8Array> | null): AsyncGenerator<Uint8Array> {
  const limit = limits.import_body_bytes;
  return limitBytes(body, limit, `An import has at most ${limit} bytes. Split it into several.`);
}

/** Why a JSON text would take too much memory once it is parsed, or null. */
export function checkJsonShape(text: string): Failure | null {
  const { depth, nodes, longest } = measureJson(text);
  const bounds = [
    ["levels of arrays and objects in each other", limits.json_depth, depth],
    ["arrays, objects and fields", limits.json_nodes, nodes],
    ["elements in an array, or fields in an object", limits.json_elements, longest],
  ] as const;
  const exceeded = bounds.find(([, limit, actual]) => actual > limit);
  if (exceeded === undefined) return null;
  const [what, limit, actual] = exceeded;
  const message = `JSON has at most ${limit} ${what}; this has ${actual}. Send less of it in a request.`;
  return { code: "invalid_json", message, details: { limit, actual } };
}

/** Parses JSON whose shape is within bounds. */
export function parseJson(text: string, reviver?: (key: string, value: unknown) => unknown): Result<unknown> {
  const failure = checkJsonShape(text);
  if (failure) return { ok: false, failure };
  try {
    return ok(JSON.parse(text, reviver));
  } catch {
    return { ok: false, failure: invalidJson(text) };
  }
}

/** Numbers with fewer digits in a row are the same as doubles. */
const LONG_DIGITS = /\d{16}/;

/**
 * The same, but a number with more digits than a double holds becomes the string of its digits: other systems number
 * their objects beyond 2^53, and two such numbers may round to one.
 */
export function parseJsonKeepingDigits(text: string): Result<unknown> {
  return LONG_DIGITS.test(text) ? parseJson(text, keepDigits) : parseJson(text);
}

/** `source` is the number as it stands in the text (https://tc39.es/proposal-json-parse-with-source/). */
function keepDigits(_key: string, value: unknown, { source = "" }: { readonly source?: string } = {}): unknown {
  return typeof value === "number" && LONG_DIGITS.test(source) && String(value) !== source ? source : value;
}
