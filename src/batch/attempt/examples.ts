/** An attempt's examples, from the lines that the Worker sends. */
import { createHash } from "node:crypto";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Target } from "../../core/linear/targets.ts";
import { visibleText } from "../../core/text/visible.ts";
import { type DataLine, dataLine, type Submission } from "../../jobs/protocol.ts";
import { type EmbeddingMatrix, makeEmbeddingMatrix } from "./embedding-matrix.ts";

export interface Examples {
  /** One for each row, without invisible characters; empty if the inputs are embeddings. */
  readonly texts: readonly string[];
  /** The inputs, if they are embeddings; else empty. */
  readonly embeddings: EmbeddingMatrix;
  readonly targets: readonly Target[];
  /** Rows of one group have the same input, but for case and spacing. */
  readonly groups: Int32Array;
  /** Of each group, by its number: uniform in [0, 1), by its hash. */
  readonly groupPositions: readonly number[];
  readonly heldOut: readonly boolean[];
  /** undefined for rows of files. */
  readonly ids: readonly (string | undefined)[];
  /** Of the examples in their dataset; undefined for rows of files. */
  readonly positions: readonly (number | undefined)[];
  /** Of the dataset; null for files. */
  readonly revision: number | null;
  /** SHA-256 of all lines but the last, each with its line end and without the example's id and position, which train nothing. */
  readonly digest: string;
}

const MAX_LINE_BYTES = 4 * 1024 * 1024;
/** The memory of a row beside its input: its target, its group and its places in lists. */
const BYTES_PER_ROW = 200;

type Row = Extract<DataLine, { held_out: boolean }>;

/**
 * Reads lines up to the one that ends them. Null if they are cut off before it, or are not as many as it says. Fails with
 * `invalid_parameter` if a line does not fit the submission, and with `limit_exceeded` if the examples take more memory than
 * `maxBytes`.
 */
export async function readExamples(
  chunks: AsyncIterable<Uint8Array>,
  submission: Pick<Submission, "task" | "modality" | "dimensions">,
  maxBytes: number,
): Promise<Result<Examples> | null> {
  const builder = makeExamplesBuilder(submission);
  const hash = createHash("sha256");
  for await (const line of splitLines(chunks)) {
    if (line === null) return null;
    const json = parseJson(line);
    const parsed = dataLine.safeParse(json);
    const invalidLine = (what: string) => fail("invalid_parameter", `Line ${builder.count() + 1} of the data ${what}.`);
    if (!parsed.success) return invalidLine("is not as agreed");
    if ("end" in parsed.data) {
      const { rows, revision } = parsed.data;
      return rows === builder.count() ? ok({ ...builder.build(), revision, digest: hash.digest("hex") }) : null;
    }
    // Checkpoints of earlier builds are of lines without ids and positions.
    const { id, position } = parsed.data;
    hash.update(id === undefined && position === undefined ? line : withoutPlace(json)).update("\n");
    const problem = builder.add(parsed.data);
    if (problem !== null) return invalidLine(problem);
    if (builder.bytes() > maxBytes)
      return fail("limit_exceeded", `The data take more than the ${maxBytes} bytes of memory that this endpoint has.`);
  }
  return null;
}

/** Collects rows. `add` answers what is wrong with a row, or null; `bytes` about how much memory the rows take. */
function makeExamplesBuilder({ task, modality, dimensions }: Pick<Submission, "task" | "modality" | "dimensions">) {
  const texts: string[] = [];
  const embeddings = makeEmbeddingMatrix(dimensions);
  const targets: Target[] = [];
  const groups: number[] = [];
  const heldOut: boolean[] = [];
  const ids: (string | undefined)[] = [];
  const positions: (number | undefined)[] = [];
  const groupPositions: number[] = [];
  const groupNumbers = new Map<string, number>();
  const labels = new Map<string, string>();
  let bytes = 0;
  /** One string object for each label, not one for each row. */
  const intern = (label: string) => {
    const known = labels.get(label) ?? label;
    labels.set(known, known);
    return known;
  };
  const internTarget = (target: Row["target"]): Target => {
    if (typeof target === "number") return target;
    return typeof target === "string" ? intern(target) : target.map(intern);
  };
  const addInput = (row: Row): string | null => {
    if (modality === "text") {
      if (row.text === undefined) return "has no text";
      texts.push(visibleText(row.text));
      bytes += 2 * row.text.length;
      return null;
    }
    const embedding = readEmbedding(row.embedding ?? "", dimensions);
    if (embedding === null) return `has no embedding of ${dimensions} finite numbers`;
    embeddings.push(embedding);
    bytes += 4 * dimensions;
    return null;
  };
  return {
    count: () => targets.length,
    bytes: () => bytes,
    add(row: Row): string | null {
      const problem = addInput(row);
      if (problem !== null) return problem;
      if (!fitsTask(row.target, task)) return `has a target that is none of the task ${task}`;
      targets.push(internTarget(row.target));
      const group = groupNumbers.get(row.group) ?? groupNumbers.size;
      if (group === groupNumbers.size) groupPositions.push(positionOf(row.group));
      groupNumbers.set(row.group, group);
      groups.push(group);
      heldOut.push(row.held_out);
      ids.push(row.id);
      positions.push(row.position);
      bytes += BYTES_PER_ROW;
      return null;
    },
    build: () => ({
      texts,
      embeddings,
      targets,
      groups: Int32Array.from(groups),
      groupPositions,
      heldOut,
      ids,
      positions,
    }),
  };
}

function withoutPlace(json: unknown): string {
  const { id: _id, position: _position, ...line } = json as { readonly id?: string; readonly position?: number };
  return JSON.stringify(line);
}

/** The lines without their ends. Null, and nothing after it, if one is too long or cut off. The last line needs no end. */
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
  // A line that was cut off counts as missing, not as wrong.
  yield parseJson(last) === undefined ? null : last;
}

function parseJson(line: Buffer): unknown {
  try {
    return JSON.parse(line.toString());
  } catch {
    return undefined;
  }
}

/** 48 bits of a group's hash, as a number in [0, 1). */
function positionOf(group: string): number {
  return createHash("sha256").update(group).digest().readUIntBE(0, 6) / 2 ** 48;
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
