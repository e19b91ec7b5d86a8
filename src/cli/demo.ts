/** The demo: runs the Worker on this machine, trains a head on a CSV through the HTTP API, and prints what came of it. */
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { type Client, createClient, type DatasetImport, type Head, type Prediction } from "../sdk/client.ts";
import { buildWorker, type Server, serve } from "../server/runtime.ts";
import { type HeldOutRow, inspectCsv, readWithoutRows } from "./csv.ts";
import { manualCommands, printEvaluation, printPredictions, printStepTimes } from "./report.ts";
import { makeStopwatch, type Stopwatch } from "./stopwatch.ts";
import { printHeading } from "./terminal.ts";

const root = resolve(import.meta.dirname, "..", "..");

/** What the demo trains on, and the texts that it then classifies. */
interface DemoData {
  readonly file: string;
  /** Rows of the file that have a text and a label, without those held out. */
  readonly trainingRows: number;
  /** Rows of the user's file that are not imported. Their texts are classified. */
  readonly heldOutRows: readonly HeldOutRow[];
  readonly texts: readonly string[];
}

interface DemoResult {
  readonly imported: DatasetImport;
  readonly head: Head;
  /** One a text; null if there are no texts. */
  readonly predictions: readonly Prediction[] | null;
}

/** Runs the demo on a CSV, or on the example tickets. Nothing is left behind. */
export async function runDemo(csvPath: string | undefined): Promise<void> {
  const data = await readDemoData(csvPath);
  const stopwatch = makeStopwatch();
  const result = await withDemoWorker(stopwatch, (url, adminKey) => trainAndPredict(stopwatch, url, adminKey, data));
  printResult(data, result);
  printHeading("What each step took");
  printStepTimes(stopwatch.stepTimes);
  printHeading("The same by hand");
  console.log(manualCommands(displayPath(data.file), data.texts[0] ?? "some text"));
}

async function readDemoData(csvPath: string | undefined): Promise<DemoData> {
  if (csvPath === undefined) {
    const file = join(root, "examples", "support-tickets.csv");
    const { rows } = await inspectCsv(file);
    const unseen = await readFile(join(root, "examples", "unseen-tickets.txt"), "utf8");
    const texts = unseen.split("\n").filter((line) => line.trim() !== "");
    return { file, trainingRows: rows, heldOutRows: [], texts };
  }
  // npm runs scripts in the project's folder; INIT_CWD is the user's folder.
  const file = resolve(process.env.INIT_CWD ?? ".", csvPath);
  const { rows, heldOutRows } = await inspectCsv(file);
  return { file, trainingRows: rows - heldOutRows.length, heldOutRows, texts: heldOutRows.map(({ text }) => text) };
}

/** Builds and starts the Worker in a temporary folder, and removes both after `work`. */
async function withDemoWorker<T>({ step }: Stopwatch, work: (url: string, adminKey: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "graft-demo-"));
  // The tools behind the server write temporary files of their own. This puts them into the same folder.
  process.env.TMPDIR = folder;
  const removeFolder = () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  let building: Promise<void> | undefined;
  let server: Server | undefined;
  // The build is a process of its own, which would go on writing. Miniflare's exit hook ends the runtime.
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
    return await work(server.url, adminKey);
  } finally {
    await server?.stop();
    removeFolder();
    process.off("exit", removeFolder).off("SIGINT", onInterrupt).off("SIGTERM", onInterrupt);
  }
}

async function trainAndPredict(
  { step }: Stopwatch,
  url: string,
  adminKey: string,
  { file, trainingRows, heldOutRows, texts }: DemoData,
): Promise<DemoResult> {
  const graft = await step("Create a tenant and a dataset", () => createTicketsDataset(url, adminKey));
  const imported = await step(`Stream ${trainingRows} examples in`, () =>
    graft.datasets.import("tickets", readWithoutRows(file, heldOutRows), "text/csv"),
  );
  const head = await step("Train and evaluate a head", () =>
    graft.heads.train({ name: "support", dataset: "tickets", method: "head" }),
  );
  if (texts.length === 0) return { imported, head, predictions: null };
  const { data } = await step(`Classify ${texts.length} texts`, () => graft.heads.predict("support", { input: texts }));
  return { imported, head, predictions: data };
}

async function createTicketsDataset(url: string, adminKey: string): Promise<Client> {
  const { key } = await createClient({ baseUrl: url, key: adminKey }).tenants.create({ id: "demo" });
  const client = createClient({ baseUrl: url, key: key.secret });
  await client.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
  return client;
}

function printResult({ file, texts, heldOutRows }: DemoData, { imported, head, predictions }: DemoResult): void {
  const columns = process.stdout.columns || 100;
  printHeading(`A head trained on ${displayPath(file)}`);
  for (const { line, message } of imported.errors.slice(0, 5)) console.log(`  line ${line} left out: ${message}`);
  if (imported.rejected > 5) console.log(`  … ${imported.rejected} lines in all were left out.`);
  if (imported.unchanged > 0) console.log(`  ${imported.unchanged} rows came twice and count once.`);
  printEvaluation(head, columns);
  printHeading(
    heldOutRows.length > 0 ? "Rows of the file that were held out before the import" : "Texts that it has never seen",
  );
  if (predictions) printPredictions(predictions, texts, heldOutRows, columns);
  else console.log("  None: no label has three or more examples, so no row was held out.");
}

/** A path from the project's folder, for a file inside it. */
function displayPath(file: string): string {
  const path = relative(root, file);
  return path.startsWith("..") ? file : path;
}
