/** An attempt's examples, from the lines that the Worker sends. */
import { createHash } from "node:crypto";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Target } from "../../core/linear/targets.ts";
import { type DataLine, dataLine, type Submission } from "../../jobs/protocol.ts";
import { type EmbeddingMatrix, makeEmbeddingMatrix } from "./embedding-matrix.ts";

export interface Examples {
  /** One a row; none where the inputs are embeddings. */
  readonly texts: readonly string[];
  /** The inputs, where they are embeddings; else empty. */
  readonly embeddings: EmbeddingMatrix;
  readonly targets: readonly Target[];
  readonly groups: Int32Array;
  readonly heldOut: readonly boolean[];
  readonly revision: number | null;
  /** SHA-256 of the lines, each with its end, without the last. */
  readonly digest: string;
}

const MAX_LINE_BYTES = 4 * 1024 * 1024;
/** What a row takes beside its input: its target, its group and the lists that it is in. */
const BYTES_PER_ROW = 200;

type Row = Extract<DataLine, { held_out: boolean }>;

/**
 * Reads lines up to the one that ends them; null where they are cut off before it, or are not as many as it says. Fails
 * with `invalid_parameter` where a line is not what the submission says, and with `limit_exceeded` where they take more
 * memory than `bytes`.
 */
export async function readExamples(
  chunks: AsyncIterable<Uint8Array>,
  { task, modality, dimensions }: Pick<Submission, "task" | "modality" | "dimensions">,
  maxBytes: number,
): Promise<Result<Examples> | null> {
  const texts: string[] = [];
  const embeddings = makeEmbeddingMatrix(dimensions);
  const targets: Target[] = [];
  const groups: number[] = [];
  const heldOut: boolean[] = [];
  const groupNumbers = new Map<string, number>();
  const labels = new Map<string, string>();
  const hash = createHash("sha256");
  let usedBytes = 0;
  /** One string for each label, not one for each row. */
  const intern = (label: string) => {
    const known = labels.get(label) ?? label;
    labels.set(known, known);
    return known;
  };

  const addRow = (row: Row): string | null => {
    if (modality === "text") {
      if (row.text === undefined) return "has no text";
      texts.push(row.text);
      usedBytes += 2 * row.text.length;
    } else {
      const embedding = readEmbedding(row.embedding ?? "", dimensions);
      if (embedding === null) return `has no embedding of ${dimensions} finite numbers`;
      embeddings.push(embedding);
      usedBytes += 4 * dimensions;
    }
    if (!fitsTask(row.target, task)) return `has a target that is none of the task ${task}`;
    targets.push(
      typeof row.target === "number"
        ? row.target
        : typeof row.target === "string"
          ? intern(row.target)
          : row.target.map(intern),
    );
    const group = groupNumbers.get(row.group) ?? groupNumbers.size;
    groupNumbers.set(row.group, group);
    groups.push(group);
    heldOut.push(row.held_out);
    usedBytes += BYTES_PER_ROW;
    return null;
  };

  for await (const line of splitLines(chunks)) {
    if (line === null) return null;
    const parsed = dataLine.safeParse(parseJson(line));
    const invalidLine = (what: string) => fail("invalid_parameter", `Line ${targets.length + 1} of the data ${what}.`);
    if (!parsed.success) return invalidLine("is not as agreed");
    if ("end" in parsed.data) {
      const { rows, revision } = parsed.data;
      if (rows !== targets.length) return null;
      const digest = hash.digest("hex");
      return ok({ texts, embeddings, targets, groups: Int32Array.from(groups), heldOut, revision, digest });
    }
    hash.update(line).update("\n");
    const problem = addRow(parsed.data);
    if (problem !== null) return invalidLine(problem);
    if (usedBytes > maxBytes)
      return fail("limit_exceeded", `The data take more than the ${maxBytes} bytes of memory that this endpoint has.`);
  }
  return null;
}

/** The lines without their ends; null, and nothing more, where one is too long. What follows the last end is a line too. */
async function* splitLines(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer | null> {
  let partialLine: Buffer[] = [];
  let length = 0;
  for await (const chunk of chunks) {
    let from = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, from)) {
      yield Buffer.concat([...partialLine, chunk.subarray(from, end)]);
      partialLine = [];
      length = 0;
      from = end + 1;
    }
    partialLine.push(Buffer.from(chunk.subarray(from)));
    length += chunk.length - from;
    if (length > MAX_LINE_BYTES) return yield null;
  }
  const last = Buffer.concat(partialLine);
  // A line that was cut off is not wrong, but missing.
  yield parseJson(last) === undefined ? null : last;
}

function parseJson(line: Buffer): unknown {
  try {
    return JSON.parse(line.toString());
  } catch {
    return undefined;
  }
}

function readEmbedding(base64: string, dimensions: number): Float32Array | null {
  const bytes = Buffer.from(base64, "base64");
  if (bytes.length !== 4 * dimensions) return null;
  const row = Float32Array.from({ length: dimensions }, (_, i) => bytes.readFloatLE(4 * i));
  return row.every(Number.isFinite) ? row : null;
}

function fitsTask(target: Row["target"], task: Submission["task"]): boolean {
  if (task === "regression") return typeof target === "number";
  return task === "multi_label" ? Array.isArray(target) : typeof target === "string";
}
