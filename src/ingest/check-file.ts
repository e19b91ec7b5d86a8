/** Checks a training file line by line while its bytes are stored. */
import type { RowError } from "../api/examples.ts";
import type { File } from "../api/files.ts";
import { limits } from "../core/limits.ts";
import { type BodyError, bodyError } from "./body.ts";
import type { ExampleShape } from "./example.ts";
import { MAX_ERRORS_SHOWN } from "./rows.ts";
import { readTrainingFile } from "./training-file.ts";

export const FILE_TOO_LARGE = `A file has at most ${limits.file_bytes} bytes. Split it, or import its examples into a dataset.`;

export interface FileSummary {
  readonly bytes: number;
  readonly examples: number;
  readonly rejected: number;
  readonly errors: readonly RowError[];
  /** Null where no line is valid. */
  readonly shape: ExampleShape | null;
  readonly labels: ReadonlySet<string>;
}

/** Reads a file to its end. Calls `write` with its chunks until a line is invalid. */
export async function summarizeFile(
  file: AsyncIterable<Uint8Array>,
  write: (chunk: Uint8Array) => Promise<void>,
): Promise<FileSummary> {
  const errors: RowError[] = [];
  const labels = new Set<string>();
  let [bytes, lines, examples, rejected] = [0, 0, 0, 0];
  let shape: ExampleShape | null = null;
  async function* writeChunks() {
    for await (const chunk of file) {
      bytes += chunk.length;
      if (bytes > limits.file_bytes) throw fileTooLargeError(bytes);
      if (rejected === 0) await write(chunk);
      yield chunk;
    }
  }
  for await (const row of readTrainingFile(writeChunks(), null)) {
    checkLimit(++lines, limits.import_rows, "lines, good, bad or empty");
    if (row === null) continue;
    if ("error" in row) {
      rejected++;
      if (errors.length < MAX_ERRORS_SHOWN) errors.push(row.error);
      continue;
    }
    shape = row.shape;
    checkLimit(++examples, limits.examples_per_dataset, "examples");
    if (shape.task === "regression") continue;
    for (const label of [JSON.parse(row.row.target) as string | string[]].flat()) labels.add(label);
    checkLimit(labels.size, limits.labels_per_dataset, "labels");
  }
  return { bytes, examples, rejected, errors, shape, labels };
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
