/** Both methods, a head and fine-tuning, on the same rows of two sets: the service measures them for a recommendation. */
import { createReadStream } from "node:fs";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { setTimeout } from "node:timers/promises";
import type { Client, Recommendation } from "../sdk/client.ts";
import type { Stopwatch } from "./stopwatch.ts";

const examples = resolve(import.meta.dirname, "..", "..", "examples");
/** So few that both sets are measured in a minute on two cores. */
const TICKETS_PER_LABEL = { train: 30, test: 25 };
const POLL_MS = 500;

export interface MeasuredSet {
  readonly title: string;
  readonly recommendation: Recommendation;
}

/**
 * Measures both methods on some of the tickets, and on a set where the order of words or a negation decides. The
 * dataset `tickets` has all tickets.
 *
 * @param seconds of one core that each set may take; undefined: as long as the service allows
 */
export async function measureMethods(
  graft: Client,
  { step }: Stopwatch,
  seconds: number | undefined,
): Promise<readonly MeasuredSet[]> {
  await step("Divide two sets into examples and tests", () => makeDatasets(graft));
  const sets = [
    { title: "Support tickets: what they are about", dataset: "tickets-train", test_dataset: "tickets-test" },
    {
      title: "Status updates: solved or not, by negation and word order",
      dataset: "status",
      test_dataset: "status-test",
    },
  ];
  const budget = seconds === undefined ? {} : { budget: { seconds } };
  return step("Train a head and fine-tune on the same rows", async (say) => {
    const measured: MeasuredSet[] = [];
    for (const { title, ...params } of sets)
      measured.push({
        title,
        recommendation: await graft.recommendations.create({ ...params, ...budget, measure: true }),
      });
    for (;;) {
      const pointCounts = measured.map(({ recommendation }) => recommendation.measured?.points.length ?? 0);
      say(`${pointCounts.reduce((sum, count) => sum + count, 0)} samples of the two sets measured`);
      if (measured.every(({ recommendation }) => recommendation.status !== "measuring")) return measured;
      await setTimeout(POLL_MS);
      for (const [i, { title, recommendation }] of measured.entries())
        measured[i] = { title, recommendation: await graft.recommendations.get(recommendation.id) };
    }
  });
}

async function makeDatasets(graft: Client): Promise<void> {
  const create = (name: string) => graft.datasets.create({ name, task: "single_label", modality: "text" });
  const tickets = await divideTickets(graft);
  for (const part of ["train", "test"] as const) {
    await create(`tickets-${part}`);
    await graft.datasets.import(`tickets-${part}`, tickets[part].join("\n"), "application/x-ndjson");
    const status = part === "train" ? "status" : "status-test";
    await create(status);
    const file = join(examples, "status-updates", `${part}.csv`);
    await graft.datasets.import(status, createReadStream(file), "text/csv");
  }
}

/** The first tickets of each label to train on, and the next ones to test on, as lines of NDJSON. */
async function divideTickets(graft: Client): Promise<Record<"train" | "test", string[]>> {
  const lines = createInterface({ input: Readable.fromWeb((await graft.datasets.export("tickets")) as never) });
  const counts = new Map<string, number>();
  const parts: Record<"train" | "test", string[]> = { train: [], test: [] };
  for await (const line of lines) {
    const { text, label } = JSON.parse(line) as { readonly text: string; readonly label: string };
    const count = counts.get(label) ?? 0;
    counts.set(label, count + 1);
    const { train, test } = TICKETS_PER_LABEL;
    const part = count < train ? "train" : count < train + test ? "test" : null;
    if (part !== null) parts[part].push(JSON.stringify({ text, label }));
  }
  return parts;
}
