/** What fine-tuned encoders cost: the time and memory of a job, of an embedding, and of the first prediction. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Trainable } from "../../src/api/jobs.ts";
import { textUse } from "../../src/backbones/node.ts";
import { buildWorker, serve } from "../../src/server/runtime.ts";
import type { System, TenantClient } from "../../test/e2e/processes.ts";
import { uploadDataset } from "../shared/accuracy.ts";
import { cached, readStored } from "../shared/cached.ts";
import { prepareSplit, trainLayers } from "../shared/in-process.ts";
import { processTreeMegabytes } from "../shared/memory.ts";
import { readRowLimit } from "../shared/options.ts";
import { makeRow, type Row } from "../shared/report.ts";
import { median, pairedRatio } from "../shared/statistics.ts";
import { syntheticTexts12 } from "../shared/synthetic.ts";
import { jobOperations, trainingOperations, workOf } from "../shared/training-work.ts";
import type { EncodeRequest } from "../workers/encode.ts";
import { BENCH, type Case, type Context, waitForSuccess } from "./case.ts";

const ALL_LAYERS = 4;
const LABELS = 20;

const SERVED_TEXTS = 256;
const SERVING_BATCH = 32;
const PAIRS = 7;
const ROUND_MS = 1_000;
const MAX_SERVING_RATIO = 1.5;

const COLD_ROWS = 2_000;
const COLD_JOBS = 3;
const WARM_PREDICTIONS = 20;
const MAX_COLD_MS = 250;

const JOB_ROWS = 10_000;
const MAX_MEGABYTES = 1_200;
/** Of jobs that train these layers. */
const jobs: readonly { readonly trainable: Trainable; readonly layers: number; readonly maxMinutes: number }[] = [
  { trainable: { last_layers: 1 }, layers: 1, maxMinutes: 10 },
  { trainable: "all", layers: ALL_LAYERS, maxMinutes: 25 },
];

export function costCases(): Case[] {
  return [servingCase(), coldCase(), ...jobs.map(jobCase)];
}

function makeCase(name: string, operations: number, measure: (context: Context) => Promise<Row[]>): Case {
  return {
    name,
    operations,
    measure: async (context) =>
      context === null ? readStored<Row[]>(BENCH, name) : cached(BENCH, name, () => measure(context)),
  };
}

/** The time of a fine-tuned encoder's embedding in workerd beside the frozen one's, in alternating rounds of one isolate. */
function servingCase(): Case {
  const name = `serving, 12 sub-words a text, ${SERVING_BATCH} at a time`;
  const rows = syntheticTexts12(SERVED_TEXTS, 2);
  return makeCase(name, trainingOperations(workOf(rows), ALL_LAYERS), async () => {
    const split = await prepareSplit({ train: rows, test: [] }, 0, false, textUse);
    const { delta } = await trainLayers(split, ALL_LAYERS);
    const folder = mkdtempSync(join(tmpdir(), "bench-serving-"));
    try {
      await buildWorker(join(folder, "worker"), join(import.meta.dirname, "..", "workers", "encode.ts"));
      const options = {
        port: 0,
        stateDir: join(folder, "state"),
        adminKey: "",
        log: () => undefined,
        exposeRuntime: true,
      };
      const worker = await serve(join(folder, "worker"), options);
      const texts = rows.map(({ text }) => text);
      const timeText = async (id: string, more: Partial<EncodeRequest> = {}) => {
        const request: EncodeRequest = { id, texts, batch: SERVING_BATCH, milliseconds: ROUND_MS, ...more };
        const answer = await fetch(worker.url, { method: "POST", body: JSON.stringify(request) });
        const { done, elapsed } = (await answer.json()) as { done: number; elapsed: number };
        return elapsed / done;
      };
      try {
        await timeText("fine-tuned", { delta: Buffer.from(delta ?? []).toString("base64") });
        await timeText(textUse.id);
        const [tuned, frozen]: [number[], number[]] = [[], []];
        for (let i = 0; i < PAIRS; i++) {
          frozen.push(await timeText(textUse.id));
          tuned.push(await timeText("fine-tuned"));
        }
        return [servingRow(name, tuned, frozen)];
      } finally {
        await worker.stop();
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}

function servingRow(name: string, tuned: readonly number[], frozen: readonly number[]): Row {
  const ratio = pairedRatio(tuned, frozen);
  return makeRow({
    case: name,
    measure: "fine-tuned encoder, a text",
    value: median(tuned),
    unit: "ms",
    peer: `${textUse.id}, frozen`,
    peer_value: median(frozen),
    ...ratio,
    target: `ratio ≤ ${MAX_SERVING_RATIO}`,
    met: ratio.ratio <= MAX_SERVING_RATIO,
  });
}

/** The first prediction after a promotion, before an isolate has the delta, against the predictions after it. */
function coldCase(): Case {
  const rows = syntheticTexts12(Math.min(COLD_ROWS, readRowLimit("job")), LABELS);
  const work = workOf(rows);
  // The delta is as large after one epoch as after more.
  const operations = COLD_JOBS * (trainingOperations(work, 0) + trainingOperations(work, ALL_LAYERS) / 3);
  const name = `first prediction after a promotion, cold delta of all layers, ${rows.length} texts`;
  return makeCase(name, operations, async (context) => {
    const { tenant } = await context.system();
    const { graft } = tenant;
    await uploadDataset(graft, "cold", rows, true);
    // The isolate has loaded the frozen encoder before.
    await uploadDataset(graft, "base", rows.slice(0, 10 * LABELS));
    await graft.heads.train({ name: "base", dataset: "base", backbone: textUse.id, method: "head" });
    let count = 0;
    const timePrediction = async (head: string) => {
      const input = `a text that no cache has, number ${count++}`;
      const started = performance.now();
      await graft.heads.predict(head, { input });
      return performance.now() - started;
    };
    await timePrediction("base");
    const coldTimes: number[] = [];
    const warmTimes: number[] = [];
    for (let i = 0; i < COLD_JOBS; i++) {
      const head = `cold-${i}`;
      const params = { model: textUse.id, training_file: "dataset:cold", head, seed: i } as const;
      const hyperparameters = { n_epochs: 1 };
      const { id } = await graft.jobs.create({ ...params, trainable: "all", promote: "always", hyperparameters });
      await waitForSuccess(tenant, id);
      coldTimes.push(await timePrediction(head));
      const times: number[] = [];
      for (let n = 0; n < WARM_PREDICTIONS; n++) times.push(await timePrediction(head));
      warmTimes.push(median(times));
    }
    const warm = median(warmTimes);
    const penalty = median(coldTimes) - warm;
    return [
      makeRow({
        case: name,
        measure: "more than a warm one",
        value: penalty,
        unit: "ms",
        peer: "warm",
        peer_value: warm,
        spread: [Math.min(...coldTimes) - warm, Math.max(...coldTimes) - warm],
        target: `≤ ${MAX_COLD_MS}`,
        met: penalty <= MAX_COLD_MS,
      }),
    ];
  });
}

/** The time and the peak memory of a job, its comparison included. */
function jobCase({ trainable, layers, maxMinutes }: (typeof jobs)[number]): Case {
  const rows = syntheticTexts12(Math.min(JOB_ROWS, readRowLimit("job")), LABELS);
  const work = workOf(rows);
  const layerName = trainable === "all" ? "all layers" : `last_layers ${layers}`;
  const name = `job of ${rows.length} texts, ${(work.tokens / rows.length).toFixed(1)} tokens each, ${LABELS} labels, ${layerName}`;
  return makeCase(name, jobOperations(work, layers), async (context) => {
    const { system, tenant } = await context.system();
    await uploadDataset(tenant.graft, "job", rows, true);
    const { minutes, megabytes, idleMegabytes, epochs } = await measureJob(system, tenant, trainable);
    const targets = rows.length === JOB_ROWS;
    return [
      makeRow({
        case: name,
        measure: "job, create to the end",
        value: minutes,
        unit: "min",
        ...(targets ? { target: `≤ ${maxMinutes}`, met: minutes <= maxMinutes } : {}),
      }),
      makeRow({
        case: name,
        measure: `the batch endpoint's peak memory (${idleMegabytes.toFixed(0)} MB at rest)`,
        value: megabytes,
        unit: "MB",
        target: `≤ ${MAX_MEGABYTES}`,
        met: megabytes <= MAX_MEGABYTES,
      }),
      ...epochs.map((value, i) => makeRow({ case: name, measure: `epochs of training ${i + 1}`, value })),
    ];
  });
}

async function measureJob(system: System, tenant: TenantClient, trainable: Trainable) {
  const { graft } = tenant;
  const idleMegabytes = processTreeMegabytes(system.pid("batch"));
  let megabytes = idleMegabytes;
  const memoryTimer = setInterval(() => {
    megabytes = Math.max(megabytes, processTreeMegabytes(system.pid("batch")));
  }, 100);
  try {
    const started = performance.now();
    const params = { model: textUse.id, training_file: "dataset:job", trainable, promote: "always" } as const;
    const { id } = await graft.jobs.create(params);
    await waitForSuccess(tenant, id);
    const minutes = (performance.now() - started) / 60_000;
    return { minutes, megabytes, idleMegabytes, epochs: await readEpochs(tenant, id) };
  } finally {
    clearInterval(memoryTimer);
  }
}

/** The epochs of each of a job's trainings of layers, in their order. */
async function readEpochs({ graft }: TenantClient, id: string): Promise<number[]> {
  const epochs: number[] = [];
  for (let after: string | undefined, hasMore = true; hasMore; ) {
    const page = await graft.jobs.events(id, { limit: 100, ...(after === undefined ? {} : { after }) });
    for (const { data } of page.data) if (data?.epoch !== undefined) epochs.push(data.epoch);
    after = page.last_id ?? undefined;
    hasMore = page.has_more;
  }
  // Events are listed from the latest on: an epoch is a training's last where a later training follows, or nothing.
  return epochs.filter((epoch, i) => i === 0 || (epochs[i - 1] as number) <= epoch).reverse();
}
