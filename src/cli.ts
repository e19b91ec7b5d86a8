/**
 * The command line: `demo [file.csv]` runs the real Worker on this machine, trains a head on a CSV of labelled texts
 * through the HTTP API, shows what came of it, and leaves nothing behind.
 */
import { randomBytes } from "node:crypto";
import { createReadStream, mkdtempSync, rmSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { styleText } from "node:util";
import { parse } from "csv-parse";
import { createClient, type Evaluation, GraftError, type Head, type Prediction } from "./sdk.ts";
import { buildWorker, type Server, serve, UsageError } from "./serve.ts";

const root = resolve(import.meta.dirname, "..");
const usage = `Usage: npm run demo [-- file.csv]

  file.csv  labelled texts with the columns 'text' and 'label'; without it, examples/support-tickets.csv`;

// --- The CSV -------------------------------------------------------------------------------------------------------

interface HeldOutRow {
  readonly text: string;
  readonly label: string;
  /** Where its row lies in the file: from the first byte to before the second. */
  readonly bytes: readonly [number, number];
}

export interface CsvSummary {
  readonly rows: number;
  readonly labels: number;
  /** Up to five rows, each of another label, whose text is nowhere else in the file. */
  readonly heldOutRows: readonly HeldOutRow[];
}

/** Reads a CSV once, as a stream, and throws a Problem where no head could be trained on it. */
export async function inspectCsv(file: string): Promise<CsvSummary> {
  const fileStats = await stat(file).catch(() => null);
  if (fileStats === null) throw new UsageError(`There is no file '${file}'.`);
  if (!fileStats.isFile()) throw new UsageError(`'${file}' is not a file.`);
  if (fileStats.size === 0) throw new UsageError(`'${file}' is empty.`);
  const parser = createReadStream(file).pipe(
    parse({
      bom: true,
      columns: checkHeader,
      info: true,
      // A file may mix them, as it may in an import.
      record_delimiter: ["\r\n", "\n", "\r"],
      relax_column_count: true,
      skip_empty_lines: true,
      skip_records_with_error: true,
    }),
  );
  const labels = new Map<string, number>();
  const texts = new Map<string, number>();
  const candidates: HeldOutRow[] = [];
  let rows = 0;
  let start = 0;
  for await (const { record, info } of parser as AsyncIterable<{
    record: { text?: string; label?: string };
    info: { bytes: number };
  }>) {
    const bytes = [start, info.bytes] as const;
    start = info.bytes;
    const { text = "", label = "" } = record;
    if (text.trim() === "" || label === "") continue;
    rows++;
    const normalised = text.trim().toLowerCase();
    texts.set(normalised, (texts.get(normalised) ?? 0) + 1);
    const count = (labels.get(label) ?? 0) + 1;
    labels.set(label, count);
    // The third of its label, so that at least two are left to train on.
    if (count === 3 && !/[\r\n]/.test(text)) candidates.push({ text, label, bytes });
  }
  if (rows === 0) throw new UsageError(`'${file}' has no rows with both a text and a label.`);
  if (labels.size === 1) {
    throw new UsageError(
      `All ${rows} rows of '${file}' have the label '${[...labels.keys()][0]}'; a head needs at least 2.`,
    );
  }
  const unique = candidates.filter(({ text }) => texts.get(text.trim().toLowerCase()) === 1);
  const heldOutCount = Math.min(5, Math.max(1, Math.floor(rows / 10)), unique.length);
  const heldOutRows = Array.from(
    { length: heldOutCount },
    (_, i) => unique[Math.floor((i * unique.length) / heldOutCount)] as HeldOutRow,
  );
  return { rows, labels: labels.size, heldOutRows: heldOutRows };
}

function checkHeader(header: readonly string[]): string[] {
  const columns = header.map((column) => column.trim().toLowerCase());
  const missing = ["text", "label"].filter((column) => !columns.includes(column)).map((column) => `'${column}'`);
  if (missing.length === 0) return columns;
  const columnNames = header.slice(0, 6).map((column) => `'${truncate(column, 30)}'`);
  throw new UsageError(
    `The CSV's first line must name the columns 'text' and 'label'; it lacks ${missing.join(" and ")} and has ${columnNames.join(", ")}.`,
  );
}

/** The file's bytes without the held-out rows, whose line breaks stay: line numbers in messages are the file's own. */
export async function* readWithoutRows(file: string, rows: readonly HeldOutRow[]): AsyncGenerator<Uint8Array> {
  let position = 0;
  for await (const chunk of createReadStream(file) as AsyncIterable<Buffer>) {
    const chunkStart = position;
    position += chunk.length;
    const overlapping = rows.filter(({ bytes: [from, to] }) => from < position && to > chunkStart);
    if (overlapping.length === 0) yield chunk;
    else {
      const isInside = (offset: number) => overlapping.some(({ bytes: [from, to] }) => offset >= from && offset < to);
      yield chunk.filter((byte, i) => byte === 10 || byte === 13 || !isInside(chunkStart + i));
    }
  }
}

// --- The terminal --------------------------------------------------------------------------------------------------

const graphemes = new Intl.Segmenter();
const WIDE =
  /\p{Emoji_Presentation}|[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]/u;

/** How many columns a text takes on a terminal. */
function displayWidth(text: string): number {
  let columns = 0;
  for (const { segment } of graphemes.segment(text)) columns += WIDE.test(segment) ? 2 : 1;
  return columns;
}

/** A text on one line of at most so many columns, without control characters. */
function truncate(text: string, columns: number): string {
  const line = text.replace(/[\p{Cc}\p{Cf}\p{Cs}\s]+/gu, " ").trim();
  if (displayWidth(line) <= columns) return line;
  let prefix = "";
  for (const { segment } of graphemes.segment(line)) {
    if (displayWidth(prefix) + displayWidth(segment) > columns - 1) break;
    prefix += segment;
  }
  return `${prefix}…`;
}

function padEnd(text: string, columns: number): string {
  return text + " ".repeat(Math.max(0, columns - displayWidth(text)));
}

function padStart(text: string, columns: number): string {
  return " ".repeat(Math.max(0, columns - displayWidth(text))) + text;
}

/** Columns aligned: the first ones to the left, those from `right` on to the right. */
function formatTable(rows: readonly (readonly string[])[], right: number): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => displayWidth(row[column] ?? ""))));
  const line = (row: readonly string[]) =>
    row.map((cell, i) => (i < right ? padEnd(cell, widths[i] ?? 0) : padStart(cell, widths[i] ?? 0))).join("  ");
  return rows.map((row) => `  ${line(row).trimEnd()}`).join("\n");
}

/** The shortest beginnings of 3 to 8 characters that tell the labels apart, or else their numbers. */
function abbreviate(labels: readonly string[]): string[] {
  for (let length = 3; length <= 8; length++) {
    const short = labels.map((label) =>
      Array.from(truncate(label, 256))
        .slice(0, length)
        .join("")
        .replace(/[\s\p{P}]+$/u, ""),
    );
    if (new Set(short).size === labels.length && !short.includes("")) return short;
  }
  return labels.map((_, i) => `${i + 1}`);
}

/**
 * A confusion matrix as text, true labels down and predicted ones across, with each label's recall; where it would be
 * wider than `columns` or has more than 30 labels, the 15 most confused pairs in its place.
 */
export function formatConfusion({ labels, matrix }: NonNullable<Evaluation["confusion"]>, columns: number): string {
  const shortLabels = abbreviate(labels);
  const isNumbered = shortLabels[0] === "1";
  const names = labels.map((label, i) => (isNumbered ? `${i + 1} ` : "") + truncate(label, 24));
  const recall = (row: readonly number[], i: number) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return total === 0 ? "–" : formatPercent((row[i] ?? 0) / total);
  };
  const grid = [
    ["true \\ predicted", ...shortLabels, "recall"],
    ...matrix.map((row, i) => [
      names[i] ?? "",
      ...row.map((count) => (count === 0 ? "·" : `${count}`)),
      recall(row, i),
    ]),
  ];
  const text = formatTable(grid, 1);
  if (labels.length <= 30 && Math.max(...text.split("\n").map(displayWidth)) <= columns) return text;

  const pairs = matrix.flatMap((row, i) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return row.map((count, j) => ({ i, j, count, total })).filter((pair) => pair.i !== pair.j && pair.count > 0);
  });
  pairs.sort((a, b) => b.count - a.count || b.count / b.total - a.count / a.total);
  if (pairs.length === 0) return `  None of the ${labels.length} labels was taken for another.`;
  const topPairs = pairs.slice(0, 15).map(({ i, j, count, total }) => {
    return [truncate(labels[i] ?? "", 32), truncate(labels[j] ?? "", 32), `${count}`, `of ${total}`];
  });
  const title = `  ${labels.length} labels; the ${topPairs.length} most confused of ${pairs.length} confused pairs:`;
  return `${title}\n\n${formatTable([["true", "predicted", "times", ""], ...topPairs], 2)}`;
}

function formatPercent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

function formatDuration(milliseconds: number): string {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

function printHeading(text: string): void {
  console.log(`\n${styleText("bold", text)}\n`);
}

/** Runs steps one after the other, shows on stderr that they go on, and keeps what each took. */
function stopwatch() {
  const stepTimes: [string, number][] = [];
  const { isTTY } = process.stderr;
  return {
    taken: stepTimes,
    async step<T>(name: string, work: () => Promise<T>): Promise<T> {
      const started = performance.now();
      const elapsed = () => performance.now() - started;
      const show = () =>
        process.stderr.write(
          isTTY ? `\r${name} … ${formatDuration(elapsed())}\u001b[K` : `${name} … ${formatDuration(elapsed())}\n`,
        );
      if (!isTTY) process.stderr.write(`${name} …\n`);
      const timer = setInterval(show, isTTY ? 100 : 2000);
      try {
        return await work();
      } finally {
        clearInterval(timer);
        if (isTTY) process.stderr.write("\r\u001b[K");
        stepTimes.push([name, elapsed()]);
      }
    },
  };
}

// --- The demo ------------------------------------------------------------------------------------------------------

function printEvaluation(head: Head, columns: number): void {
  const { evaluation, training } = head;
  const { l2, iterations } = training;
  console.log(
    `  ${head.labels.length} labels, ${training.examples} examples, backbone ${head.backbone.id} (${head.dimensions} dimensions),`,
  );
  console.log(
    `  l2 ${l2.toPrecision(3)}, ${iterations} iterations, ${formatDuration(training.milliseconds)} inside the Worker.`,
  );
  if (evaluation?.accuracy === undefined) {
    console.log("  There are too few examples to hold any out, so it was not evaluated.");
    return;
  }
  const { method, folds, accuracy_interval, macro_f1, log_loss, ece, confusion } = evaluation;
  printHeading(
    `How good it is on examples it was not trained on (${method === "holdout" ? "holdout" : `${folds}-fold cross-validation`})`,
  );
  const interval = accuracy_interval ? `   95 % interval ${accuracy_interval.map(formatPercent).join(" to ")}` : "";
  console.log(`  accuracy                    ${formatPercent(evaluation.accuracy)}${interval}`);
  console.log(`  macro-F1                    ${macro_f1?.toFixed(3)}`);
  console.log(`  log loss                    ${log_loss?.toFixed(3)}`);
  console.log(`  expected calibration error  ${ece?.toFixed(3)}\n`);
  if (confusion) console.log(formatConfusion(confusion, columns));
}

function printPredictions(
  predictions: readonly Prediction[],
  texts: readonly string[],
  truth: readonly HeldOutRow[],
  columns: number,
): void {
  const labels = predictions.map(({ label = "", score = 0 }, i) => {
    const expected = truth[i]?.label;
    const verdict = expected === undefined ? [] : [truncate(expected, 24), expected === label ? "right" : "wrong"];
    return [score.toFixed(2), truncate(label, 24), ...verdict];
  });
  const usedWidth = Math.max(...formatTable(labels, labels.length).split("\n").map(displayWidth));
  const rows = labels.map((row, i) => [truncate(texts[i] ?? "", Math.max(24, columns - usedWidth - 8)), ...row]);
  const titles = ["text", "score", "predicted", ...(truth.length > 0 ? ["true", ""] : [])];
  console.log(formatTable([titles, ...rows], titles.length));
}

function shellQuote(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** The same by hand: shell commands that work as they stand against `npm start`. */
function manualCommands(file: string, text: string): string {
  const adminKey = randomBytes(16).toString("hex");
  const json = `-H "Authorization: Bearer $KEY" -H 'content-type: application/json'`;
  return `# in one terminal
ADMIN_KEY=${adminKey} npm start

# in another
GRAFT=http://127.0.0.1:8787
KEY=$(curl -sS $GRAFT/v1/admin/tenants -H 'Authorization: Bearer ${adminKey}' -H 'content-type: application/json' -d '{}' | sed 's/.*"secret":"\\([^"]*\\)".*/\\1/')
curl -sS $GRAFT/v1/datasets ${json} -d '{"name":"tickets","task":"single_label","modality":"text"}'
curl -sS $GRAFT/v1/datasets/tickets/examples -H "Authorization: Bearer $KEY" -H 'content-type: text/csv' --data-binary @${shellQuote(file)}
curl -sS $GRAFT/v1/heads ${json} -d '{"name":"support","dataset":"tickets"}'
curl -sS $GRAFT/v1/heads/support/predict ${json} -d ${shellQuote(JSON.stringify({ input: text, top_k: 3 }))}`;
}

async function runDemo(csvPath: string | undefined): Promise<void> {
  const { step, taken: stepTimes } = stopwatch();
  const columns = process.stdout.columns || 100;
  // npm runs scripts in the project's folder; INIT_CWD is where the user was.
  const file =
    csvPath === undefined
      ? join(root, "examples", "support-tickets.csv")
      : resolve(process.env.INIT_CWD ?? ".", csvPath);
  const csv = await inspectCsv(file);
  const heldOutRows = csvPath === undefined ? [] : csv.heldOutRows;
  const unseen = csvPath === undefined ? await readFile(join(root, "examples", "unseen-tickets.txt"), "utf8") : "";
  const texts =
    csvPath === undefined
      ? unseen.split("\n").filter((line) => line.trim() !== "")
      : heldOutRows.map(({ text }) => text);

  const folder = mkdtempSync(join(tmpdir(), "graft-demo-"));
  // The tools behind the server keep temporary files of their own; here they go with ours.
  process.env.TMPDIR = folder;
  const removeFolder = () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  let building: Promise<void> | undefined;
  let server: Server | undefined;
  // The build is a process of its own, which would go on writing; the runtime is ended by miniflare's own exit hook.
  const onInterrupt = () => void Promise.allSettled([building]).then(() => process.exit(130));
  process.on("exit", removeFolder).on("SIGINT", onInterrupt).on("SIGTERM", onInterrupt);
  try {
    const adminKey = randomBytes(16).toString("hex");
    const bundleDir = join(folder, "worker");
    await step("Build the Worker", () => {
      building = buildWorker(bundleDir);
      return building;
    });
    server = await step("Start it on workerd", () => {
      const log = (line: string) => void (line.includes("_error") && process.stderr.write(`${line}\n`));
      return serve(bundleDir, { port: 0, stateDir: join(folder, "state"), adminKey, log });
    });
    const { url } = server;
    const graft = await step("Create a tenant and a data set", async () => {
      const { key } = await createClient({ baseUrl: url, key: adminKey }).tenants.create({ id: "demo" });
      const client = createClient({ baseUrl: url, key: key.secret });
      await client.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
      return client;
    });
    const imported = await step(`Stream ${csv.rows - heldOutRows.length} examples in`, () =>
      graft.datasets.import("tickets", readWithoutRows(file, heldOutRows), "text/csv"),
    );
    const head = await step("Train and evaluate a head", () =>
      graft.heads.train({ name: "support", dataset: "tickets", method: "head" }),
    );
    const predictions =
      texts.length === 0
        ? null
        : await step(`Classify ${texts.length} texts`, () => graft.heads.predict("support", { input: texts }));

    const displayPath = relative(root, file).startsWith("..") ? file : relative(root, file);
    printHeading(`A head trained on ${displayPath}`);
    for (const { line, message } of imported.errors.slice(0, 5)) console.log(`  line ${line} left out: ${message}`);
    if (imported.rejected > 5) console.log(`  … ${imported.rejected} lines in all were left out.`);
    if (imported.unchanged > 0) console.log(`  ${imported.unchanged} rows came twice and count once.`);
    printEvaluation(head, columns);
    printHeading(
      heldOutRows.length > 0 ? "Rows of the file that were held out before the import" : "Texts that it has never seen",
    );
    if (predictions) printPredictions(predictions.data, texts, heldOutRows, columns);
    else console.log("  None: no label has three or more examples, so no row was held out.");
    printHeading("What each step took");
    console.log(
      formatTable(
        [...stepTimes, ["all", stepTimes.reduce((sum, [, ms]) => sum + ms, 0)] as const].map(([name, ms]) => [
          name,
          formatDuration(ms),
        ]),
        1,
      ),
    );
    printHeading("The same by hand");
    console.log(manualCommands(displayPath, texts[0] ?? "some text"));
  } finally {
    await server?.stop();
    removeFolder();
    process.off("exit", removeFolder).off("SIGINT", onInterrupt).off("SIGTERM", onInterrupt);
  }
}

if (import.meta.main) {
  const [command, ...args] = process.argv.slice(2);
  if (command === "--help" || command === "-h" || args.includes("--help")) console.log(usage);
  else if (command !== "demo" || args.length > 1) {
    console.error(usage);
    process.exitCode = 1;
  } else {
    try {
      await runDemo(args[0]);
    } catch (error) {
      const isExpected = error instanceof UsageError || error instanceof GraftError;
      console.error(isExpected ? error.message : error);
      process.exitCode = 1;
    }
  }
}
