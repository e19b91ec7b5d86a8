/** Checks an example as it comes in, and makes the example that is stored. */

import type { DatasetModality } from "../api/datasets.ts";
import { type Input, type LabelledExample, labelledExample, type StoredExample } from "../api/examples.ts";
import { schemaFailure } from "../api/validation.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { type Task, targetField } from "../core/head.ts";
import { limits } from "../core/limits.ts";
import { countCharacters, isLongerThan, truncateText } from "../core/text/characters.ts";
import { isBlank } from "../core/text/visible.ts";
import { shortHash, toHex } from "../lib/hash.ts";

/** What an example must be to belong to a dataset. */
export interface ExampleShape {
  readonly task: Task;
  readonly modality: DatasetModality;
  readonly dimensions: number | null;
}

/** The shape of an example, where the first example decides that of all. */
export function inferShape(example: { labels?: unknown; value?: unknown; embedding?: unknown }): ExampleShape {
  const { labels, value, embedding } = example;
  return {
    task: labels !== undefined ? "multi_label" : value !== undefined ? "regression" : "single_label",
    modality: embedding === undefined ? "text" : "embedding",
    dimensions: Array.isArray(embedding) ? embedding.length : null,
  };
}

const LARGEST_FLOAT32 = 3.4028234663852886e38;

function isFloat32(value: number): boolean {
  return Math.abs(value) <= LARGEST_FLOAT32;
}

/** A text as it is embedded and stored, and whether it was cut. */
export interface CheckedText {
  readonly text: string;
  readonly truncated: boolean;
}

/**
 * Checks a text. One beyond the limit is refused, or with `truncate` cut at the end of a word. Lone surrogates, which
 * UTF-8 cannot represent, become U+FFFD.
 */
export function checkText(text: string, param: string, truncate = false): Result<CheckedText> {
  const limit = limits.text_characters;
  const isTooLong = isLongerThan(text, limit);
  if (isTooLong && !truncate) {
    const actual = countCharacters(text);
    const message = `A text has at most ${limit} characters; this one has ${actual}. With 'truncate: true' it is cut.`;
    return fail("input_too_long", message, { param, details: { limit, actual } });
  }
  const checked = (isTooLong ? truncateText(text, limit) : text).toWellFormed();
  if (isBlank(checked))
    return fail("input_empty", "The text is empty. Send a text with at least one visible character.", { param });
  return ok({ text: checked, truncated: isTooLong });
}

/** An embedding as 32-bit floats. */
export function checkEmbedding(
  values: readonly number[],
  dimensions: number | null,
  param: string,
): Result<Float32Array> {
  if (values.length === 0) return fail("invalid_embedding", "The embedding is empty.", { param });
  if (dimensions !== null && values.length !== dimensions) {
    return fail("invalid_embedding", `The embedding has ${values.length} numbers where ${dimensions} are expected.`, {
      param,
    });
  }
  const invalidIndex = values.findIndex((value) => !isFloat32(value));
  if (invalidIndex >= 0)
    return fail("invalid_embedding", "The embedding holds a number that is not a finite 32-bit float.", {
      param: `${param}[${invalidIndex}]`,
    });
  // -0 and 0 are equal but differ in their bytes, of which the hash is made.
  return ok(Float32Array.from(values).map((value) => value + 0));
}

/** A checked example, with what was done to it. */
export interface ParsedExample {
  readonly example: StoredExample;
  /** Empty for a value. */
  readonly labels: readonly string[];
  /** How many labels had white space around them. */
  readonly trimmed: number;
  readonly truncated: boolean;
}

/** Checks one example. `path` is its path in the request, such as `examples[3]`. */
export function readExample(raw: unknown, shape: ExampleShape, path: string, truncate = false): Result<ParsedExample> {
  const parsed = labelledExample.safeParse(raw);
  if (!parsed.success) {
    const failure = schemaFailure(parsed.error, raw, "The example");
    const param = joinPath(path, failure.param ?? "");
    return { ok: false, failure: param === "" ? failure : { ...failure, param } };
  }
  const input = readInput(parsed.data, shape, path, truncate);
  if (!input.ok) return input;
  const target = readTarget(parsed.data, shape.task, path);
  if (!target.ok) return target;
  const labels = typeof target.value === "number" ? [] : [target.value].flat();
  return ok({
    example: toStoredExample(parsed.data.id?.toWellFormed() ?? null, input.value.input, target.value),
    labels,
    trimmed: countTrimmed(raw as LabelledExample),
    truncated: input.value.truncated,
  });
}

function countTrimmed({ label, labels }: LabelledExample): number {
  if (label !== undefined) return label.trim() === label ? 0 : 1;
  return labels?.filter((one) => one.trim() !== one).length ?? 0;
}

/** The same, of an example that is not to be cut. */
export function parseExample(raw: unknown, shape: ExampleShape, path: string): Result<StoredExample> {
  const read = readExample(raw, shape, path);
  return read.ok ? ok(read.value.example) : read;
}

function joinPath(path: string, param: string): string {
  return path === "" ? param : param === "" ? path : `${path}.${param}`;
}

function readInput(
  example: LabelledExample,
  shape: ExampleShape,
  path: string,
  truncate: boolean,
): Result<{ readonly input: string | Float32Array; readonly truncated: boolean }> {
  const inputFields = (["text", "embedding", "image"] as const).filter((field) => example[field] !== undefined);
  const field = inputFields[0];
  if (inputFields.length > 1)
    return fail("invalid_parameter", `An example has one input, not ${inputFields.join(" and ")}.`, {
      param: joinPath(path, inputFields[1] ?? ""),
    });
  if (field === undefined)
    return fail("missing_parameter", `The example needs '${shape.modality}'.`, {
      param: joinPath(path, shape.modality),
    });
  if (field === "image")
    return fail("modality_not_supported", "No image backbone exists yet. Send texts or embeddings.", {
      param: joinPath(path, field),
    });
  if (field !== shape.modality) {
    return fail("modality_mismatch", `The examples here have inputs of modality '${shape.modality}', not '${field}'.`, {
      param: joinPath(path, field),
    });
  }
  if (example.text === undefined) {
    const embedding = checkTrainingEmbedding(example.embedding ?? [], shape.dimensions, joinPath(path, "embedding"));
    return embedding.ok ? ok({ input: embedding.value, truncated: false }) : embedding;
  }
  const checked = checkText(example.text, joinPath(path, "text"), truncate);
  return checked.ok ? ok({ input: checked.value.text, truncated: checked.value.truncated }) : checked;
}

/** An embedding to train on. A prediction may be for larger numbers, which do no harm to others there. */
function checkTrainingEmbedding(
  values: readonly number[],
  dimensions: number | null,
  param: string,
): Result<Float32Array> {
  const limit = limits.largest_embedding_number;
  const index = values.findIndex((value) => Math.abs(value) > limit);
  if (index < 0) return checkEmbedding(values, dimensions, param);
  const message = `The numbers of an example's embedding are at most ${limit} in size; this one has ${values[index]}, beside which all other examples would look alike. Scale the embeddings down.`;
  return fail("invalid_embedding", message, {
    param: `${param}[${index}]`,
    details: { limit, actual: values[index] },
  });
}

/** The target of an example, or of what it is to become. */
export function readTarget(
  example: Pick<LabelledExample, "label" | "labels" | "value">,
  task: Task,
  path: string,
): Result<string | string[] | number> {
  const expected = targetField[task];
  const unexpected = (["label", "labels", "value"] as const).find(
    (field) => field !== expected && example[field] !== undefined,
  );
  if (unexpected !== undefined)
    return fail("task_mismatch", `With the task '${task}' an example takes '${expected}', not '${unexpected}'.`, {
      param: joinPath(path, unexpected),
    });
  const target = example[expected];
  if (target === undefined)
    return fail("missing_parameter", `The example needs '${expected}'.`, { param: joinPath(path, expected) });
  if (typeof target === "number") {
    if (Math.abs(target) <= limits.largest_value) return ok(target);
    return fail("invalid_label", `A value is at most ${limits.largest_value} in size. Measure it in larger units.`, {
      param: joinPath(path, expected),
      details: { limit: limits.largest_value, actual: target },
    });
  }
  if (typeof target === "string") return ok(target.toWellFormed());
  return ok([...new Set(target.map((label) => label.toWellFormed()))].sort());
}

export function toStoredExample(
  id: string | null,
  input: string | Float32Array,
  target: string | readonly string[] | number,
): StoredExample {
  const bytes = typeof input === "string" ? input : new Uint8Array(input.buffer, input.byteOffset, input.byteLength);
  const json = JSON.stringify(target);
  const inputHash = shortHash(bytes);
  return {
    id,
    inputHash,
    groupHash: typeof bytes === "string" ? hashGroup(bytes, inputHash) : inputHash,
    contentHash: shortHash(bytes, json),
    input: bytes,
    target: json,
  };
}

/** Hashing is most of the work of an import, and many texts are as they are compared. */
function hashGroup(text: string, inputHash: Uint8Array): Uint8Array {
  const compared = comparedText(text);
  return compared === text ? inputHash : shortHash(compared);
}

/** A text as it is compared with others: texts that are then equal are one input to a training. */
export function comparedText(text: string): string {
  return text.normalize("NFKC").toLowerCase().trim().replace(/\s+/g, " ");
}

/** Equal for inputs that are one input to a training. */
export function inputKey(input: Input): string {
  const fields = typeof input === "string" ? { text: input } : input;
  if ("text" in fields) return `text ${comparedText(fields.text)}`;
  if ("image" in fields) return `image ${fields.image}`;
  const bytes = new Uint8Array(Float32Array.from(fields.embedding).buffer);
  return `embedding ${toHex(shortHash(bytes))}`;
}

/** The same example with another target, as JSON. */
export function withTarget(example: StoredExample, target: string): StoredExample {
  return { ...example, target, contentHash: shortHash(example.input, target) };
}
