/**
 * Heads of few examples a class, trained in Node on text-static-1 at the defaults of a training:
 *
 *   npm run bench -- few-shot --data DIR [--only PATTERN]
 *
 * DIR has labelled sets (shared/text-datasets.ts). For each set and size, some draws of so many examples of each class, and
 * some trainings on each draw that differ in their seed alone:
 *
 *   accuracy    on at most 1,500 test texts, the mean of all trainings. The peers are heads that always have lexical
 *               features and heads that never have any
 *   range       between the best and the worst seed of a draw, the mean of the draws
 *   evaluation  what the trainings' own evaluations say less what the test texts say: the mean, and the lowest and highest
 *   score       mean score of the predicted labels less the accuracy, likewise
 */
import { textStatic } from "../src/backbones/node.ts";
import { encode } from "../src/backbones/text-static.ts";
import { mean } from "../src/core/evaluation/metrics.ts";
import { seededRandom, shuffle } from "../src/core/random.ts";
import { type Encoder, testProbe, trainProbe } from "./shared/linear-probe.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { spreadOf } from "./shared/statistics.ts";
import { readRequestedDatasets, type Split, sampleByLabel } from "./shared/text-datasets.ts";

const SETS =
  /^(hwu64 full|snips full|bitext_support27|query_wellformedness|clinc150_full|multidogo_media|goemotions_ekman single)$/;
const SIZES = [2, 3, 5, 10, 20];
const DRAWS = 3;
const SEEDS = 5;
const TEST_TEXTS = 1_500;
const MAX_RANGE = 0.005;

const table = textStatic.table();
const encoder: Encoder = { dimensions: textStatic.dimensions, encode: (text) => encode(table, text) };

export async function run(): Promise<Row[]> {
  const sets = readRequestedDatasets(SETS);
  const rows: Row[] = [];
  for (const { name, seenInPretraining, splits } of sets)
    for (const size of SIZES)
      rows.push(...measure(`${name}${seenInPretraining ? " (seen)" : ""}, ${size} a class`, splits[0] as Split, size));
  return rows;
}

interface Draw {
  /** Of the heads of each seed. */
  readonly accuracies: readonly number[];
  readonly fixed: Record<"with" | "without", number>;
  readonly evaluationErrors: readonly number[];
  readonly scoreErrors: readonly number[];
  readonly temperatures: readonly number[];
  readonly lexical: number;
  readonly seconds: readonly number[];
}

function measureDraw({ train, test }: Split, size: number, draw: number): Draw {
  const rows = sampleByLabel(train, size, 1 + draw);
  const testRows = shuffle([...test], seededRandom(1)).slice(0, TEST_TEXTS);
  const seconds: number[] = [];
  const heads = Array.from({ length: SEEDS }, (_, seed) => {
    const started = performance.now();
    const result = trainProbe(encoder, rows, { lexical: "auto", seed, evaluation: { method: "auto" } });
    seconds.push((performance.now() - started) / 1000);
    return { result, ...testProbe(encoder, result, testRows) };
  });
  const fixedAccuracy = (lexical: boolean) =>
    testProbe(encoder, trainProbe(encoder, rows, { lexical, seed: 0, evaluation: { method: "none" } }), testRows)
      .accuracy;
  return {
    accuracies: heads.map(({ accuracy }) => accuracy),
    fixed: { with: fixedAccuracy(true), without: fixedAccuracy(false) },
    evaluationErrors: heads.flatMap(({ result: { evaluation }, accuracy }) =>
      evaluation.accuracy === undefined ? [] : [evaluation.accuracy - accuracy],
    ),
    scoreErrors: heads.map(({ score, accuracy }) => score - accuracy),
    temperatures: heads.map(({ result }) => result.head.temperature),
    lexical: mean(heads.map(({ result }) => Number(result.training.lexical))),
    seconds,
  };
}

function measure(name: string, split: Split, size: number): Row[] {
  const draws = Array.from({ length: DRAWS }, (_, draw) => measureDraw(split, size, draw));
  const ranges = draws.map(({ accuracies }) => Math.max(...accuracies) - Math.min(...accuracies));
  const all = (key: "accuracies" | "evaluationErrors" | "scoreErrors" | "temperatures" | "seconds") =>
    draws.flatMap((draw) => draw[key]);
  const accuracy = mean(all("accuracies"));
  const [alone, beside] = (["without", "with"] as const).map((choice) => mean(draws.map(({ fixed }) => fixed[choice])));
  const range = mean(ranges);
  console.error(
    `${name}: ${accuracy.toFixed(4)} (without ${alone?.toFixed(4)}, with ${beside?.toFixed(4)}), ` +
      `range ${range.toFixed(4)} to ${Math.max(...ranges).toFixed(4)}, ` +
      `lexical ${mean(draws.map(({ lexical }) => lexical)).toFixed(2)}, ` +
      `evaluation ${signed(all("evaluationErrors"))}, score ${signed(all("scoreErrors"))}, ` +
      `T ${spreadOf(all("temperatures")).map((t) => t.toFixed(2))}, ${mean(all("seconds")).toFixed(2)} s`,
  );
  const row = (measure: string, values: readonly number[], unit = "") =>
    makeRow({ case: name, measure, value: mean(values), unit, spread: spreadOf(values) });
  return [
    {
      ...row("accuracy", all("accuracies")),
      peer: "the better of with and without lexical",
      peer_value: Math.max(alone ?? 0, beside ?? 0),
    },
    { ...row("range of the seeds", ranges), target: `≤ ${MAX_RANGE}`, met: range <= MAX_RANGE },
    ...(all("evaluationErrors").length > 0 ? [row("evaluation − accuracy", all("evaluationErrors"))] : []),
    row("score − accuracy", all("scoreErrors")),
    row("temperature", all("temperatures")),
    row("training", all("seconds"), "s"),
  ];
}

function signed(values: readonly number[]): string {
  if (values.length === 0) return "none";
  const [low, high] = spreadOf(values);
  return `${mean(values).toFixed(3)} (${low.toFixed(3)}…${high.toFixed(3)})`;
}
