/** What an evaluation costs on top of the training without one, in CPU time. */
import { makeRow, type Row } from "../shared/report.ts";
import { median, spreadOf } from "../shared/statistics.ts";
import { sampleByLabel } from "../shared/text-datasets.ts";
import { type Case, makeCase, storedResults, type Topic } from "./case.ts";
import { countLabels, trainHead, trainingSeconds } from "./head.ts";
import type { EvaluationSet } from "./sets.ts";

const RUNS = 3;
/** Examples a class. */
const SAMPLES: Readonly<Record<string, number>> = { "hwu64 full": 10, "snips full": 300, clinc150_full: 10 };
const DETAILS = ["none", "summary", "full"] as const;
const MAX_FITS = { none: 0, summary: 2, full: 4 };
type Seconds = Readonly<Record<(typeof DETAILS)[number], number>>;

export function timeTopic(sets: readonly EvaluationSet[]): Topic {
  const cases = sets.filter(({ name }) => name in SAMPLES).map(timeCase);
  return { cases, rows: () => storedResults(cases).flatMap(({ name, result }) => timeRows(name, result)) };
}

function timeCase({ name, train }: EvaluationSet): Case<readonly Seconds[]> {
  const rows = sampleByLabel(train.rows, SAMPLES[name] as number, 1);
  const labels = countLabels(rows);
  const seconds = RUNS * DETAILS.length * trainingSeconds(rows.length, labels);
  const title = `time of an evaluation: ${name}, ${rows.length} examples, ${labels} labels`;
  return makeCase({ name: title, files: [train], seconds }, (encoder) => {
    trainHead(encoder, rows);
    return Array.from({ length: RUNS }, (): Seconds => {
      const [none, summary, full] = DETAILS.map((detail) => {
        const started = process.cpuUsage();
        trainHead(encoder, rows, { detail });
        const { user, system } = process.cpuUsage(started);
        return (user + system) / 1e6;
      }) as [number, number, number];
      return { none, summary, full };
    });
  });
}

function timeRows(name: string, runs: readonly Seconds[]): Row[] {
  return DETAILS.flatMap((detail) => {
    const ratios = runs.map((seconds) => seconds[detail] / seconds.none - 1);
    const ratio = median(ratios);
    return [
      makeRow({ case: name, measure: `training, ${detail}`, value: median(runs.map((run) => run[detail])), unit: "s" }),
      makeRow({
        case: name,
        measure: `${detail}, on top of the fit`,
        value: ratio,
        unit: "fits",
        spread: spreadOf(ratios),
        target: `≤ ${MAX_FITS[detail]}`,
        met: ratio <= MAX_FITS[detail],
      }),
    ];
  });
}
