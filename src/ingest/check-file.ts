/** Checks a training file row by row while its bytes are stored. */
import type { RowError } from "../api/examples.ts";
import type { File } from "../api/files.ts";
import { limits } from "../core/limits.ts";
import { type BodyError, bodyError } from "./body.ts";
import type { ExampleShape } from "./example.ts";
import { MAX_ERRORS_SHOWN, type ReadFile, readFileRows } from "./rows.ts";

export const FILE_TOO_LARGE = `A file has at most ${limits.file_bytes} bytes. Split it, or import its examples into a dataset.`;

export interface FileSummary {
  readonly bytes: number;
  readonly examples: number;
  readonly rejected: number;
  readonly errors: readonly RowError[];
  /** Null where no row is valid. */
  readonly shape: ExampleShape | null;
  readonly labels: ReadonlySet<string>;
}

/**
 * Reads the rows of a file to train on. What it is shows in its bytes alone, so that it is read again as it was at the
 * upload. A null shape is that of the first valid row.
 */
export function readTrainingFile(chunks: AsyncIterable<Uint8Array>, shape: ExampleShape | null): ReadFile {
  return readFileRows({ chunks, mediaType: "", shape, options: { truncate: false } });
}

/** Reads a file to its end. Calls `write` with its chunks until a line is invalid. */
export async function summarizeFile(
  file: AsyncIterable<Uint8Array>,
  write: (chunk: Uint8Array) => Promise<void>,
): Promise<FileSummary> {
  const errors: RowError[] = [];
  const labels = new Set<string>();
  let [bytes, lines, examples, rejected] = [0, 0, 0, 0];
  async function* writeChunks() {
    for await (const chunk of file) {
      bytes += chunk.length;
      if (bytes > limits.file_bytes) throw fileTooLargeError(bytes);
      if (rejected === 0) await write(chunk);
      yield chunk;
    }
  }
  const { rows, shape } = readTrainingFile(writeChunks(), null);
  for await (const row of rows) {
    checkLimit(++lines, limits.import_rows, "lines, good, bad or empty");
    if (row === null) continue;
    if ("error" in row) {
      rejected++;
      if (errors.length < MAX_ERRORS_SHOWN) errors.push(row.error);
      continue;
    }
    checkLimit(++examples, limits.examples_per_dataset, "examples");
    for (const label of row.labels) labels.add(label);
    checkLimit(labels.size, limits.labels_per_dataset, "labels");
  }
  return { bytes, examples, rejected, errors, shape: shape(), labels };
}

export function fileTooLargeError(actual: number): BodyError {
  return bodyError("body_too_large", FILE_TOO_LARGE, {
    param: "file",
    details: { limit: limits.file_bytes, actual },
  });
}

function checkLimit(actual: number, limit: number, unit: string): void {
  if (actual <= limit) return;
  const message = `A file has at most ${limit} ${unit}; this one has more. Split it into several.`;
  throw bodyError("limit_exceeded", message, { param: "file", details: { limit, actual } });
}

/** What a file holds. Throws a BodyError where nothing can be trained on it. */
export function describeFile({ rejected, errors, shape, labels, bytes, examples }: FileSummary): {
  bytes: number;
} & File["graft"] {
  const [first] = errors;
  if (first) {
    const { line, code } = first;
    const message = `The file was not stored: ${rejected} of ${rejected + examples} lines are not valid. Line ${line}: ${first.message}`;
    throw bodyError("invalid_training_file", message, { param: "file", details: { line, code, errors } });
  }
  if (shape === null || examples < 2)
    throw bodyError("too_few_examples", `Training needs at least two examples, and the file has ${examples}.`, {
      param: "file",
    });
  if (shape.task === "single_label" && labels.size < 2)
    throw bodyError("too_few_labels", "Training needs at least two different labels, and the file has one.", {
      param: "file",
    });
  return { bytes, examples, ...shape, labels: labels.size };
}
