/**
 * The demo: runs the service on this machine, trains a head on a file through the HTTP API, and prints what came of it.
 * Without a file of one's own, it also compares a head with fine-tuning on two sets.
 */
import { randomBytes } from "node:crypto";
import { createReadStream, mkdtempSync, rmSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { extname, join, relative, resolve } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { UsageError } from "../lib/usage-error.ts";
import {
  type Client,
  createClient,
  type Head,
  type ImportQuery,
  type ImportType,
  type Prediction,
} from "../sdk/client.ts";
import { findPort, serveWithBatch } from "../server/instance.ts";
import { buildWorker, findBundle, type Server } from "../server/runtime.ts";
import { chooseHeldOutRows, type HeldOutRow } from "./held-out.ts";
import { type MeasuredSet, measureMethods } from "./methods.ts";
import { printMethods } from "./methods-report.ts";
import { manualCommands, printEvaluation, printImport, printPredictions, printStepTimes } from "./report.ts";
import { makeStopwatch, type Stopwatch } from "./stopwatch.ts";
import { printHeading } from "./terminal.ts";

const root = resolve(import.meta.dirname, "..", "..");

/** Two jobs at once, one a core. What it has not done when it is stopped is lost anyway. */
const batchSettings = { ...process.env, BATCH_JOBS: "2", BATCH_SMALL_JOBS: "0", BATCH_GRACE_SECONDS: "0" };

/** How the file is to be read. */
export type ImportOptions = Omit<ImportQuery, "on_error" | "dry_run">;

/** A file to train on, and the texts that are then classified. */
interface DemoData {
  readonly file: string;
  readonly type: ImportType;
  readonly options: ImportOptions;
  /** Null: rows of the file, which are held out. */
  readonly texts: readonly string[] | null;
  /** Whether head and fine-tuning are compared. */
  readonly comparesMethods: boolean;
}

interface DemoResult {
  readonly head: Head;
  readonly heldOutRows: readonly HeldOutRow[];
  readonly texts: readonly string[];
  /** One a text. */
  readonly predictions: readonly Prediction[];
  readonly methods: readonly MeasuredSet[];
}

/** What a file probably is. Its content decides. */
const typesByExtension: Readonly<Record<string, ImportType>> = {
  ".tsv": "text/tab-separated-values",
  ".json": "application/json",
  ".jsonl": "application/jsonl",
  ".ndjson": "application/x-ndjson",
  ".yml": "application/yaml",
  ".yaml": "application/yaml",
};

/**
 * Runs the demo on a file, or on the example tickets. Nothing is left behind.
 *
 * @param seconds of one core that the comparison of the methods may take on each of its sets
 */
export async function runDemo(
  path: string | undefined,
  options: ImportOptions,
  seconds: number | undefined,
): Promise<void> {
  const data = await findDemoData(path, options);
  const stopwatch = makeStopwatch();
  const result = await withDemoWorker(stopwatch, data, async (url, adminKey) => {
    const { graft, ...trained } = await trainAndPredict(stopwatch, url, adminKey, data);
    return { ...trained, methods: data.comparesMethods ? await measureMethods(graft, stopwatch, seconds) : [] };
  });
  printResult(result);
  printMethods(result.methods);
  printHeading("What each step took");
  printStepTimes(stopwatch.stepTimes);
  printHeading("The same by hand");
  console.log(manualCommands({ ...data, file: displayPath(data.file), text: result.texts[0] ?? "some text" }));
}

async function findDemoData(path: string | undefined, options: ImportOptions): Promise<DemoData> {
  if (path === undefined) {
    const unseen = await readFile(join(root, "examples", "unseen-tickets.txt"), "utf8");
    const texts = unseen.split("\n").filter((line) => line.trim() !== "");
    return {
      file: join(root, "examples", "support-tickets.csv"),
      type: "text/csv",
      options,
      texts,
      comparesMethods: true,
    };
  }
  // npm runs scripts in the project's folder; INIT_CWD is the user's folder.
  const file = resolve(process.env.INIT_CWD ?? ".", path);
  const stats = await stat(file).catch(() => null);
  if (stats === null) throw new UsageError(`There is no file '${file}'.`);
  if (!stats.isFile()) throw new UsageError(`'${file}' is not a file.`);
  if (stats.size === 0) throw new UsageError(`'${file}' is empty.`);
  return {
    file,
    type: typesByExtension[extname(file).toLowerCase()] ?? "text/csv",
    options,
    texts: null,
    comparesMethods: false,
  };
}

/**
 * Builds the Worker, unless BUNDLE_DIR names a built one, and starts it in a temporary folder, which is removed after
 * `work`.
 */
async function withDemoWorker<T>(
  { step }: Stopwatch,
  { comparesMethods }: DemoData,
  work: (url: string, adminKey: string) => Promise<T>,
): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "graft-demo-"));
  // The tools behind the server write temporary files of their own. This puts them into the same folder.
  process.env.TMPDIR = folder;
  const removeFolder = () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  let building: Promise<void> | undefined;
  let server: Pick<Server, "stop"> | undefined;
  // The build and the batch endpoint are processes of their own, which would go on writing.
  const onInterrupt = () => void Promise.allSettled([building, server?.stop()]).then(() => process.exit(130));
  const listen = () => process.on("SIGINT", onInterrupt).on("SIGTERM", onInterrupt);
  process.on("exit", removeFolder);
  listen();
  try {
    const adminKey = randomBytes(16).toString("hex");
    const { BUNDLE_DIR } = process.env;
    const bundleDir = BUNDLE_DIR ? findBundle(BUNDLE_DIR) : join(folder, "worker");
    if (!BUNDLE_DIR)
      await step("Build the Worker", () => {
        building = buildWorker(bundleDir);
        return building;
      });
    const started = await step("Start it on workerd", async () => {
      const log = (line: string) => void (line.includes("_error") && process.stderr.write(`${line}\n`));
      const batch = comparesMethods
        ? { port: await findPort("BATCH_PORT", 0), env: batchSettings, log: "ignore" as const }
        : null;
      return serveWithBatch(bundleDir, { port: 0, stateDir: join(folder, "state"), adminKey, log }, batch);
    });
    server = started;
    // Miniflare's own listeners would end this process at once.
    process.removeAllListeners("SIGINT").removeAllListeners("SIGTERM");
    listen();
    return await work(started.url, adminKey);
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
  data: DemoData,
): Promise<Omit<DemoResult, "methods"> & { readonly graft: Client }> {
  const graft = await step("Create a tenant and a dataset", () => createTicketsDataset(url, adminKey));
  const imported = await step("Stream the examples in", () =>
    graft.datasets.import("tickets", createReadStream(data.file), data.type, data.options),
  );
  printHeading(`What was read of ${displayPath(data.file)}`);
  printImport(imported);
  const heldOutRows = data.texts === null ? await step("Hold some rows out", () => holdRowsOut(graft)) : [];
  const texts = data.texts ?? heldOutRows.map(({ text }) => text);
  const head = await step("Train and evaluate a head", () =>
    graft.heads.train({ name: "support", dataset: "tickets", method: "head" }),
  );
  if (texts.length === 0) return { graft, head, heldOutRows, texts, predictions: [] };
  const { data: predictions } = await step(`Classify ${texts.length} texts`, () =>
    graft.heads.predict("support", { input: texts }),
  );
  return { graft, head, heldOutRows, texts, predictions };
}

/** Deletes some rows from the dataset before the training. */
async function holdRowsOut(graft: Client): Promise<readonly HeldOutRow[]> {
  const lines = createInterface({ input: Readable.fromWeb((await graft.datasets.export("tickets")) as never) });
  const rows = await chooseHeldOutRows(lines);
  for (const { id } of rows) await graft.datasets.deleteExample("tickets", id);
  return rows;
}

async function createTicketsDataset(url: string, adminKey: string): Promise<Client> {
  const { key } = await createClient({ baseUrl: url, key: adminKey }).tenants.create({ id: "demo" });
  const client = createClient({ baseUrl: url, key: key.secret });
  await client.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
  return client;
}

function printResult({ head, heldOutRows, texts, predictions }: DemoResult): void {
  const columns = process.stdout.columns || 100;
  printHeading("The head");
  printEvaluation(head, columns);
  printHeading(
    heldOutRows.length > 0 ? "Rows of the file that were held out of the training" : "Texts that it has never seen",
  );
  if (texts.length > 0) printPredictions(predictions, texts, heldOutRows, columns);
  else
    console.log(
      "  None: no label has three or more examples, one of them with a text of its own, so no row was held out.",
    );
}

/** A path from the project's folder, for a file inside it. */
function displayPath(file: string): string {
  const path = relative(root, file);
  return path.startsWith("..") ? file : path;
}
