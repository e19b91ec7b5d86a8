/**
 * The time of a prediction with `explain` against the same without: requests one after another to the Worker on workerd, in
 * alternation, of example tickets. No two texts of a backbone that is cached are the same. The key has the scope
 * `train`, so the nearest examples are looked up.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "csv-parse/sync";
import { cached } from "../shared/cached.ts";
import { type LocalWorker, withWorker } from "../shared/local-worker.ts";
import { makeRow, type Row } from "../shared/report.ts";
import { median, pairedRatio } from "../shared/statistics.ts";

const ROUNDS = 7;
/** Requests of a round by their inputs. */
const REQUESTS = new Map([
  [1, 20],
  [32, 2],
]);
const backbones = { "text-static-1": 5, "text-use-1": 15 } as const;

interface Times {
  /** Milliseconds a request, of each round. */
  readonly plain: readonly number[];
  readonly explained: readonly number[];
}

/** The ratio for each backbone, with one input and with as many as are explained. */
export async function explainRows(): Promise<Row[]> {
  const measured = await cached("advice", "explain", () => withWorker(measureAll));
  return Object.entries(measured).map(([name, { plain, explained }]) => {
    const target = backbones[name.split(",")[0] as keyof typeof backbones];
    const { ratio, spread } = pairedRatio(explained, plain);
    return makeRow({
      case: `explain, ${name}`,
      measure: "time of a request",
      value: median(explained),
      unit: "ms",
      peer: "without explain",
      peer_value: median(plain),
      ratio,
      spread,
      target: `≤ ${target} times`,
      met: ratio <= target,
    });
  });
}

async function measureAll({ graft }: LocalWorker): Promise<Record<string, Times>> {
  const tickets = readFileSync(join(import.meta.dirname, "..", "..", "examples", "support-tickets.csv"), "utf8");
  const texts = (parse(tickets, { columns: true }) as { text: string }[]).map(({ text }) => text);
  await graft.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
  await graft.datasets.import("tickets", tickets, "text/csv");
  let next = 0;
  const measure = async (head: string, inputs: number, explain: boolean) => {
    const input = Array.from({ length: inputs }, () => `${texts[next % texts.length]} ${next++}`);
    const start = performance.now();
    await graft.heads.predict(head, { input, explain });
    return performance.now() - start;
  };
  const times: Record<string, Times> = {};
  for (const backbone of Object.keys(backbones)) {
    const evaluation = { method: "none" } as const;
    await graft.heads.train({ name: backbone, dataset: "tickets", backbone, method: "head", evaluation });
    for (const [inputs, requests] of REQUESTS) {
      const plain: number[] = [];
      const explained: number[] = [];
      // The first round warms up.
      for (let round = 0; round <= ROUNDS; round++) {
        const sums = [0, 0];
        for (let i = 0; i < requests; i++)
          for (const [k, explain] of [false, true].entries())
            sums[k] = (sums[k] ?? 0) + (await measure(backbone, inputs, explain));
        if (round === 0) continue;
        plain.push((sums[0] ?? 0) / requests);
        explained.push((sums[1] ?? 0) / requests);
      }
      times[`${backbone}, ${inputs} input${inputs > 1 ? "s" : ""}`] = { plain, explained };
    }
  }
  return times;
}
