/**
 * A dataset that is embedded ahead of its training: 10,000 rows imported, embedded in the background by text-use-1, and a
 * head trained on them, while another tenant makes predictions. Then 10 rows more, and the head is trained again.
 *
 *   npm run bench -- ahead --data DIR      DIR has hwu64
 */
import { setTimeout } from "node:timers/promises";
import type { Dataset } from "../src/api/datasets.ts";
import { seededRandom, shuffle } from "../src/core/random.ts";
import { type Client, createClient } from "../src/sdk/client.ts";
import { generateLoad } from "./shared/load-generator.ts";
import { type LocalWorker, withWorker } from "./shared/local-worker.ts";
import { prepareTickets, type Target } from "./shared/predict-load.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { type LabelledText, readRequestedDatasets } from "./shared/text-datasets.ts";

const ROWS = 10_000;
const MORE_ROWS = 10;
const MAX_SECONDS = 45;
const MAX_P99_MS = 100;
const CONCURRENCY = 4;
const ROUND_MS = 2_000;
const POLL_MS = 200;

interface Stage {
  readonly seconds: number;
  /** Of predictions meanwhile: the highest of its rounds. */
  readonly p99: number;
}

/** How long `work` takes while another tenant makes predictions. */
async function measureStage(target: Target, work: () => Promise<unknown>): Promise<Stage> {
  let isOver = false;
  let p99 = 0;
  const startedAt = performance.now();
  let seconds = 0;
  const done = work().finally(() => {
    isOver = true;
    seconds = (performance.now() - startedAt) / 1000;
  });
  while (!isOver) {
    const round = await generateLoad({ ...target, concurrency: CONCURRENCY, milliseconds: ROUND_MS });
    p99 = Math.max(p99, round.p99);
  }
  await done;
  return { seconds, p99 };
}

/** The rows that requests embedded, as their log lines say. */
let embedded = 0;
function countEmbedded(line: string): void {
  const match = /"embedded":(\d+)/.exec(line);
  embedded += Number(match?.[1] ?? 0);
}

const toLines = (rows: readonly LabelledText[]) => rows.map((row) => JSON.stringify(row)).join("\n");

async function measure(worker: LocalWorker, rows: readonly LabelledText[]): Promise<Row[]> {
  const requests = await prepareTickets(worker, "auto");
  const target = { port: Number(new URL(worker.url).port), requests: requests("/v1/heads/support/predict") };
  const { key } = await worker.operator.tenants.create({ id: "ahead" });
  const graft = createClient({ baseUrl: worker.url, key: key.secret });
  await graft.datasets.create({ name: "intents", task: "single_label", modality: "text" });
  const importRows = (part: readonly LabelledText[]) =>
    graft.datasets.import("intents", toLines(part), "application/x-ndjson");
  const waitUntilEmbedded = async (client: Client, name: string) => {
    const isComplete = ({ examples, embedded: rowsByBackbone }: Dataset) =>
      Object.entries(rowsByBackbone).some(
        ([backbone, rows]) => backbone.startsWith("text-use-1@") && rows === examples,
      );
    while (!isComplete(await client.datasets.get(name))) await setTimeout(POLL_MS);
  };
  const train = () =>
    graft.heads.train({ name: "intents", dataset: "intents", backbone: "text-use-1", method: "head" });

  // The tickets are embedded in the background, too.
  await waitUntilEmbedded(worker.graft, "tickets");
  embedded = 0;
  const round = { ...target, concurrency: CONCURRENCY, milliseconds: ROUND_MS };
  await generateLoad(round);
  const before = await generateLoad(round);
  const stages: [string, Stage][] = [
    ["imported", await measureStage(target, () => importRows(rows.slice(0, ROWS)))],
    ["embedded", await measureStage(target, () => waitUntilEmbedded(graft, "intents"))],
    ["trained", await measureStage(target, train)],
  ];
  const embeddedAhead = embedded;
  await importRows(rows.slice(ROWS, ROWS + MORE_ROWS));
  const again = await measureStage(target, train);
  await setTimeout(5_000);
  const embeddedAgain = embedded - embeddedAhead;

  const total = stages.reduce((sum, [, { seconds }]) => sum + seconds, 0);
  const name = `${ROWS} rows`;
  return [
    ...stages.flatMap(([stage, { seconds, p99 }]) => [
      makeRow({ case: name, measure: stage, value: seconds, unit: "s" }),
      {
        ...makeRow({ case: name, measure: `p99 of predictions until ${stage}`, value: p99, unit: "ms" }),
        peer: "before",
        peer_value: before.p99,
        target: `≤ ${MAX_P99_MS}`,
        met: p99 <= MAX_P99_MS,
      },
    ]),
    makeRow({
      case: name,
      measure: "in all",
      value: total,
      unit: "s",
      target: `≤ ${MAX_SECONDS}`,
      met: total <= MAX_SECONDS,
    }),
    makeRow({
      case: name,
      measure: "rows embedded",
      value: embeddedAhead,
      target: `${ROWS}`,
      met: embeddedAhead === ROWS,
    }),
    makeRow({ case: `${MORE_ROWS} rows more`, measure: "trained", value: again.seconds, unit: "s" }),
    makeRow({
      case: `${MORE_ROWS} rows more`,
      measure: "rows embedded",
      value: embeddedAgain,
      target: `≤ ${MORE_ROWS}`,
      met: embeddedAgain <= MORE_ROWS,
    }),
  ];
}

export async function run(): Promise<Row[]> {
  const splits = readRequestedDatasets(/^hwu64 full$/).flatMap((set) => set.splits);
  // Its training rows are fewer, so those of the test are among them.
  const rows = shuffle(
    splits.flatMap(({ train, test }) => [...train, ...test]),
    seededRandom(1),
  );
  return withWorker((worker) => measure(worker, rows), { log: countEmbedded });
}
