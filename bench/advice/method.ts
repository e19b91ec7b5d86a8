/**
 * Whether a recommendation chooses the better of both methods: by models of the gain that are fitted without the set that
 * they judge, on the grid of `npm run bench -- transfer` and the runs of `npm run bench -- finetune`.
 */
import { writeFileSync } from "node:fs";
import { textStatic, textUse } from "../../src/backbones/node.ts";
import { estimateAt } from "../../src/core/advice/accuracy-curve.ts";
import { type GainTask, gainFeatures, type LinearModel, predict } from "../../src/core/advice/gain.ts";
import { MIN_DATA_GAIN, MIN_EXAMPLES_PER_CLASS, MIN_GAIN } from "../../src/core/advice/recommend.ts";
import { mean } from "../../src/core/evaluation/metrics.ts";
import { makeRow, type Row } from "../shared/report.ts";
import type { Draw } from "../transfer/draws.ts";
import type { Run } from "../transfer/run.ts";
import { storedRuns } from "../transfer/stored.ts";
import { fitRidge } from "./least-squares.ts";
import { storedTask, type Task } from "./tasks.ts";

/** A dataset of the grid, or the mean of its draws, on which the head and layers of a backbone were trained. */
interface Point {
  readonly model: string;
  readonly set: string;
  readonly layers: "last_layers" | "all";
  readonly draws: readonly Measured[];
}

interface Measured {
  readonly task: GainTask;
  readonly perClass: number;
  readonly head: number;
  readonly fineTuned: number;
  /** Of train less test accuracy, fine-tuning over the head. */
  readonly extraGap: number;
  /** The growth expected of twice the examples. */
  readonly growth: number | null;
}

const LAMBDA = 0.1;
/** Below it, neither method has won. */
const TIE = 0.01;
const FILE = "src/core/advice/gain-models.ts";

export function methodRows(draws: readonly Draw[]): Row[] {
  const points = draws.length === 0 ? [] : readPoints(draws);
  if (points.length === 0) return [];
  const models = [textUse.id, textStatic.id];
  const known = models.filter((model) => points.some((point) => point.model === model));
  writeModels(known, points);
  return known.flatMap((model) => [
    ...choiceRows(model, "last_layers", points),
    ...choiceRows(model, "all", points),
    ...growthRows(model, points),
  ]);
}

function readPoints(draws: readonly Draw[]): Point[] {
  const groups = Map.groupBy(draws, ({ model, set, size }) => `${model.backbone.id}, ${set.name}, ${size}`);
  return [...groups.values()].flatMap((group) =>
    (["last_layers", "all"] as const).flatMap((layers): Point[] => {
      const measured = group.flatMap((draw) => readMeasured(draw, layers) ?? []);
      const [first] = group;
      if (measured.length === 0 || first === undefined) return [];
      return [{ model: first.model.backbone.id, set: first.set.name, layers, draws: measured }];
    }),
  );
}

function readMeasured(draw: Draw, layers: Point["layers"]): Measured | null {
  const runs = storedRuns(draw);
  const runOf = (method: Run["method"]) => runs.find((run) => run.method === method);
  const [head, fineTuned] = [runOf("head"), runOf(layers === "all" ? "all" : "last layers")];
  const task = storedTask(draw);
  const estimates = task && estimatesOf(task);
  if (!head || !fineTuned || !task || !estimates) return null;
  const { examples, labels } = head;
  const ratio = examples / task.sample;
  const headAccuracy = estimateAt(estimates, ratio).value;
  return {
    task: { examples, labels, headAccuracy },
    perClass: examples / labels,
    head: head.test,
    fineTuned: fineTuned.test,
    extraGap: fineTuned.train - fineTuned.test - (head.train - head.test),
    growth: estimateAt(estimates, 2 * ratio).value - headAccuracy,
  };
}

function estimatesOf({ evaluation }: Task) {
  const { accuracy_estimate, expected_accuracy } = evaluation;
  return accuracy_estimate && expected_accuracy ? { "1x": accuracy_estimate, ...expected_accuracy } : null;
}

type Response = (measured: Measured) => number;
const gainOf: Response = ({ head, fineTuned }) => fineTuned - head;

/** The model of a response, each set's sizes counting alike. */
function fitModel(points: readonly Point[], response: Response): LinearModel {
  const rows = points.flatMap(({ draws }) => draws.map((measured) => ({ measured, weight: 1 / draws.length })));
  const weights = fitRidge(
    rows.map(({ measured }) => gainFeatures(measured.task)),
    rows.map(({ measured }) => response(measured)),
    rows.map(({ weight }) => weight),
    LAMBDA,
  );
  const model = { weights, deviation: 0, few: 0 };
  // The squared residuals by 1 / n: what is left with very many examples, and how much more few add.
  const squares = rows.map(({ measured }) => (response(measured) - predict(model, measured.task).value) ** 2);
  const inverse = rows.map(({ measured }) => [1, 1 / measured.task.examples]);
  const [base = 0, slope = 0] = fitRidge(
    inverse,
    squares,
    rows.map(({ weight }) => weight),
    0,
  );
  const least = Math.min(...squares.map((_, i) => (inverse[i]?.[1] ?? 0) * slope + base));
  const floor = least <= 0 ? mean(squares) : base;
  return { weights, deviation: Math.sqrt(Math.max(floor, 1e-6)), few: Math.sqrt(Math.max(0, slope)) };
}

interface Judged {
  readonly gain: number;
  readonly expected: number;
  readonly headError: number;
  readonly fineTunedError: number;
  readonly perClass: number;
  readonly confidence: number;
}

/** What the recommendation would be for each point, by a model that has not seen its set. */
function judge(points: readonly Point[]): Judged[] {
  return points.map((point) => {
    const model = fitModel(
      points.filter(({ set }) => set !== point.set),
      gainOf,
    );
    const judged = point.draws.map((measured) => {
      const { value, deviation } = predict(model, measured.task);
      return { measured, value, deviation };
    });
    const average = (value: (each: (typeof judged)[number]) => number) => mean(judged.map(value));
    return {
      gain: average(({ measured }) => gainOf(measured)),
      expected: average(({ value }) => value),
      headError: average(({ measured }) => measured.task.headAccuracy - measured.head),
      fineTunedError: average(({ measured, value }) => measured.task.headAccuracy + value - measured.fineTuned),
      perClass: average(({ measured }) => measured.perClass),
      confidence: average(({ deviation }) => deviation),
    };
  });
}

const MAX_ERROR = 0.02;
/** Of two sizes that are compared. */
const MIN_DOUBLINGS = 0.5;

function choiceRows(model: string, layers: Point["layers"], all: readonly Point[]): Row[] {
  const points = all.filter((point) => point.model === model && point.layers === layers);
  const judged = judge(points);
  const answered = judged.filter(({ perClass }) => perClass >= MIN_EXAMPLES_PER_CLASS);
  const decided = answered.filter(({ gain }) => Math.abs(gain) >= TIE);
  const right = decided.filter(({ gain, expected }) => expected >= MIN_GAIN === gain > 0);
  const regretOf = (choosesFineTune: (each: Judged) => boolean) =>
    answered.map((each) => Math.max(each.gain, 0) - (choosesFineTune(each) ? each.gain : 0));
  const regret = regretOf(({ expected }) => expected >= MIN_GAIN);
  const rules = {
    "always the head": mean(regretOf(() => false)),
    "always fine-tuning": mean(regretOf(() => true)),
    "fine-tuning from 100 a class": mean(regretOf(({ perClass }) => perClass >= 100)),
  };
  const best = Math.min(...Object.values(rules));
  const name = `${model}, ${layers === "all" ? "all layers" : "last layers"}, ${points.length} points`;
  const row = (measure: string, value: number, fields: Partial<Row> = {}) =>
    makeRow({ case: name, measure, value, ...fields });
  const bounded = (measure: string, value: number, limit: number) =>
    row(measure, value, { target: `≤ ${limit}`, met: value <= limit });
  const least = (measure: string, value: number, limit: number) =>
    row(measure, value, { target: `≥ ${limit}`, met: value >= limit });
  const within = (error: (each: Judged) => number) =>
    answered.filter((each) => Math.abs(error(each)) <= MAX_ERROR).length / answered.length;
  return [
    least("share answered", answered.length / judged.length, 0.8),
    row("points where one method won by a point", decided.length),
    row("of them, right of always the head", decided.filter(({ gain }) => gain < 0).length / decided.length),
    least("of them, right", right.length / decided.length, 0.85),
    bounded("regret, mean", mean(regret), 0.003),
    bounded("regret, worst", Math.max(...regret), 0.01),
    ...Object.entries(rules).map(([rule, value]) => row(`regret of ${rule}, mean`, value)),
    bounded("regret, of the best of these", best === 0 ? 0 : mean(regret) / best, 0.5),
    least(
      "accuracy expected of the head within 2 points",
      within(({ headError }) => headError),
      0.8,
    ),
    least(
      "accuracy expected of fine-tuning within 2 points",
      within(({ fineTunedError }) => fineTunedError),
      0.8,
    ),
  ];
}

/** What more examples brought for each doubling, where the recommendation asks for more, and where it does not. */
function growthRows(model: string, points: readonly Point[]): Row[] {
  const own = points.filter((point) => point.model === model && point.layers === "last_layers");
  const pairs = [...Map.groupBy(own, ({ set }) => set).values()].flatMap((group) => {
    const sizes = group
      .map(({ draws }) => ({
        examples: mean(draws.map(({ task }) => task.examples)),
        accuracy: mean(draws.map(({ head }) => head)),
        growth: mean(draws.map(({ growth }) => growth ?? 0)),
      }))
      .sort((x, y) => x.examples - y.examples);
    return sizes.flatMap(({ examples, accuracy, growth }, i) => {
      const next = sizes[i + 1];
      const doublings = next === undefined ? 0 : Math.log2(next.examples / examples);
      if (next === undefined || doublings < MIN_DOUBLINGS) return [];
      return [{ isAdvised: growth >= MIN_DATA_GAIN, gain: (next.accuracy - accuracy) / doublings }];
    });
  });
  const [advised, others] = [true, false].map((isAdvised) =>
    pairs.filter((pair) => pair.isAdvised === isAdvised).map(({ gain }) => gain),
  ) as [number[], number[]];
  if (advised.length === 0 || others.length === 0) return [];
  const ratio = mean(advised) / mean(others);
  const row = (measure: string, value: number, fields: Partial<Row> = {}) =>
    makeRow({ case: `${model}, a doubling of the examples, ${pairs.length} pairs`, measure, value, ...fields });
  return [
    row(`gain of the head where more data are advised (${advised.length})`, mean(advised)),
    row(`gain where they are not (${others.length})`, mean(others)),
    row("ratio", ratio, { target: "≥ 3", met: ratio >= 3 }),
  ];
}

function writeModels(models: readonly string[], points: readonly Point[]): void {
  const round = ({ weights, deviation, few }: LinearModel) => {
    const digits = (value: number) => Number(value.toPrecision(4));
    return { weights: weights.map(digits), deviation: digits(deviation), few: digits(few) };
  };
  const entries = models.map((model) => {
    const of = (layers: Point["layers"]) => points.filter((point) => point.model === model && point.layers === layers);
    return [
      model,
      {
        last_layers: round(fitModel(of("last_layers"), gainOf)),
        all: round(fitModel(of("all"), gainOf)),
        gap: round(fitModel(of("all"), ({ extraGap }) => extraGap)),
      },
    ] as const;
  });
  writeFileSync(FILE, moduleText(Object.fromEntries(entries)));
}

function moduleText(models: object): string {
  return `/** Made by \`npm run bench -- advice\`: what fine-tuning adds, fitted on measured runs (gain.ts). */
export const gainModels = ${JSON.stringify(models, null, 2)};
`;
}
