/**
 * The memory of an isolate, step by step: fresh, with either backbone, with the cache of heads full, and with the largest
 * training that a request may run. Measured in workerd, in the isolate of the Worker and of its Durable Objects.
 *
 *   npm run bench -- memory
 */
import { randomBytes, randomUUID } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { seededRandom } from "../src/core/random.ts";
import { type Client, createClient } from "../src/sdk/client.ts";
import { buildWorker, type Server, serve } from "../src/server/runtime.ts";
import { connectToIsolate, type IsolateMemory, type MemoryUse } from "./shared/isolate-memory.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { median, spreadOf } from "./shared/statistics.ts";
import type { LabelledText } from "./shared/text-datasets.ts";

export const runs = 3;
const MAX_MB = 115;
const EXAMPLES = 15_000;
const LABELS = 150;
const WORDS = 8;
/** Heads with lexical features of all labels: together more than the cache takes. */
const HEADS = 48;
const HEAD_EXAMPLES = 150;
const HEAD_WORDS = 80;
const POLL_MS = 500;

/** Texts of eight frequent words, two of them of the label's own. */
function makeTexts(examples: number, length: number): LabelledText[] {
  const file = join(import.meta.dirname, "..", "models", "text-static-1", "vocabulary.txt");
  const words = readFileSync(file, "utf8")
    .split("\n")
    .filter((word) => /^[a-z]{3,7}$/.test(word));
  const random = seededRandom(1);
  const pick = (first: number, distinct: number) => words[first + Math.floor(distinct * random())] ?? "";
  return Array.from({ length: examples }, (_, i) => {
    const label = i % LABELS;
    const text = Array.from({ length }, (_, j) => (j < 2 ? pick(1_000 + 10 * label, 10) : pick(0, 1_000)));
    return { text: text.join(" "), label: `label ${label}` };
  });
}

/** Fills a new state: heads, and a dataset whose texts are embedded. */
async function prepare(graft: Client): Promise<void> {
  const texts = makeTexts(EXAMPLES, WORDS);
  const importTexts = async (name: string, rows: readonly LabelledText[]) => {
    await graft.datasets.create({ name, task: "single_label", modality: "text" });
    await graft.datasets.import(name, rows.map((row) => JSON.stringify(row)).join("\n"), "application/x-ndjson");
  };
  await importTexts("largest", texts);
  await importTexts("heads", makeTexts(HEAD_EXAMPLES, HEAD_WORDS));
  for (let i = 0; i < HEADS; i++) {
    // Another penalty, so that each head has other bytes.
    const hyperparameters = { l2: 1e-3 * (1 + i / 10), lexical: true };
    await graft.heads.train({
      name: `head-${i}`,
      dataset: "heads",
      backbone: "text-use-1",
      method: "head",
      hyperparameters,
      evaluation: { method: "none" },
    });
  }
  while (Object.values((await graft.datasets.get("largest")).embedded)[0] !== EXAMPLES) await setTimeout(POLL_MS);
}

/** The largest of the measurements while `work` runs. */
async function measurePeak(isolate: IsolateMemory, work: Promise<unknown>): Promise<MemoryUse> {
  let isOver = false;
  const ended = work.finally(() => {
    isOver = true;
  });
  let peak = await isolate.measure();
  while (!isOver) {
    const use = await isolate.measure();
    if (use.total > peak.total) peak = use;
    await Promise.race([setTimeout(POLL_MS), ended]);
  }
  await ended;
  return peak;
}

/** The memory of a fresh isolate after each step, the training only where `trains`. */
async function measureSteps(graft: Client, isolate: IsolateMemory, trains: boolean): Promise<Map<string, MemoryUse>> {
  const steps = new Map<string, MemoryUse>();
  await graft.datasets.list();
  steps.set("fresh isolate", await isolate.measure());
  await graft.embeddings.create({ model: "text-static-1", input: ["where is my parcel"] });
  steps.set("+ text-static-1", await isolate.measure());
  // A misspelt word, in a text that no earlier isolate has cached.
  await graft.embeddings.create({ model: "text-use-1", input: [`where is my parcle ${randomUUID()}`] });
  steps.set("+ text-use-1", await isolate.measure());
  for (let i = 0; i < HEADS; i++) await graft.heads.predict(`head-${i}`, { input: "where is my parcel" });
  steps.set("+ the cache full of heads", await isolate.measure());
  if (!trains) return steps;
  // Selecting l2 as well would take long.
  const training = graft.heads.train({
    name: "largest",
    dataset: "largest",
    backbone: "text-use-1",
    method: "head",
    hyperparameters: { l2: 0.1 },
  });
  steps.set(`+ training ${EXAMPLES} × 768, ${LABELS} labels`, await measurePeak(isolate, training));
  steps.set("after it", await isolate.measure());
  return steps;
}

function toRows(step: string, uses: readonly MemoryUse[]): Row[] {
  const parts = { heap: "JavaScript's heap", buffers: "array buffers", wasm: "WASM memories" } as const;
  const valuesOf = (part: keyof MemoryUse) => uses.map((use) => use[part]);
  const row = (part: keyof MemoryUse, measure: string) =>
    makeRow({ case: step, measure, value: median(valuesOf(part)), unit: "MB" });
  const spread = spreadOf(valuesOf("total"));
  return [
    ...(["heap", "buffers", "wasm"] as const).map((part) => row(part, parts[part])),
    {
      ...row("total", "in all"),
      spread,
      target: `≤ ${MAX_MB}`,
      met: spread[1] <= MAX_MB,
    },
  ];
}

export async function run(): Promise<Row[]> {
  const folder = mkdtempSync(join(tmpdir(), "graft-bench-"));
  const adminKey = randomBytes(16).toString("hex");
  const built = join(folder, "worker");
  const options = { port: 0, stateDir: join(folder, "state"), adminKey, inspect: true, log: () => undefined };
  const withServer = async <T>(work: (server: Server) => Promise<T>): Promise<T> => {
    const server = await serve(built, options);
    return work(server).finally(server.stop);
  };
  try {
    await buildWorker(built);
    const key = await withServer(async ({ url }) => {
      const tenant = await createClient({ baseUrl: url, key: adminKey }).tenants.create({ id: "bench" });
      await prepare(createClient({ baseUrl: url, key: tenant.key.secret }));
      return tenant.key.secret;
    });
    const starts: Map<string, MemoryUse>[] = [];
    while (starts.length < runs) {
      const steps = await withServer(async ({ url, inspectorUrl }) => {
        const isolate = await connectToIsolate(inspectorUrl ?? "");
        const graft = createClient({ baseUrl: url, key });
        return measureSteps(graft, isolate, starts.length === runs - 1).finally(isolate.close);
      });
      starts.push(steps);
    }
    const steps = [...(starts.at(-1)?.keys() ?? [])];
    return steps.flatMap((step) =>
      toRows(
        step,
        starts.flatMap((start) => start.get(step) ?? []),
      ),
    );
  } finally {
    rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  }
}
