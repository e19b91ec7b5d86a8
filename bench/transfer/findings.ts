/** What the runs say of transfer learning and fine-tuning, in sentences whose figures and conclusions are computed. */
import { mean } from "../../src/core/evaluation/metrics.ts";
import { median } from "../shared/statistics.ts";
import { formatAccuracy, formatCount, formatPoints, formatSize } from "./format.ts";
import {
  accuracy,
  type Gain,
  gainsBySet,
  gap,
  type Method,
  meanBySet,
  methods,
  type Run,
  type Size,
  select,
  setsOf,
  sizes,
  type Value,
} from "./run.ts";

/** A difference of accuracy that counts. */
const NOTABLE = 0.005;
/** Of twelve sets, a smaller rank correlation is chance (5 %, two-sided). */
const NOTABLE_CORRELATION = 0.59;
const NAMED_SETS = 3;
const FIRST_SIZE = sizes[0];
const NOTHING = "not measured.";

interface Finding {
  readonly title: string;
  /** The finding, of the runs of one model. */
  readonly describe: (runs: readonly Run[]) => string;
}

/** The five ways in which transfer learning and fine-tuning differ, each described for every model. */
export const findings: readonly Finding[] = [
  { title: "What is trained", describe: describeTrained },
  { title: "Data needed", describe: describeData },
  { title: "Cost", describe: describeCost },
  { title: "Adaptability", describe: describeAdaptability },
  { title: "Overfitting", describe: describeOverfitting },
];

const meanAt = (runs: readonly Run[], size: Size, method: Method, value: Value) =>
  meanBySet(select(runs, { size, method }), value);

const meanGain = (gains: readonly Gain[]) => mean(gains.map(({ gain }) => gain));

const sizesOf = (runs: readonly Run[], method: Method): Size[] =>
  sizes.filter((size) => gainsBySet(runs, size, method).length > 0);

/** On how many sets a method is ahead and behind by a notable difference. */
function describeSets(gains: readonly Gain[]): string {
  const ahead = gains.filter(({ gain }) => gain >= NOTABLE).length;
  const behind = gains.filter(({ gain }) => gain <= -NOTABLE).length;
  return `ahead on ${ahead} and behind on ${behind} of ${gains.length} sets`;
}

const largestSize = (runs: readonly Run[], method: Method) => sizesOf(runs, method).at(-1) ?? null;

function describeTrained(runs: readonly Run[]): string {
  const size = largestSize(runs, "all");
  if (size === null) return NOTHING;
  const parameters = (method: Method, ofSize: Size) =>
    formatCount(meanAt(runs, ofSize, method, (run) => run.parameters));
  const [last, all] = [meanGain(gainsBySet(runs, size, "last layers")), meanGain(gainsBySet(runs, size, "all"))];
  const [headAccuracy, lastAccuracy, allAccuracy] = methods.map((method) =>
    formatAccuracy(meanAt(runs, size, method, accuracy)),
  );
  const share =
    last <= 0
      ? "the last layers alone gain nothing"
      : `the last layers alone gain ${Math.round((100 * last) / all)} % of what all layers do`;
  const conclusion = all >= NOTABLE ? share : "all layers gain less than half a point";
  return [
    `a head trains ${parameters("head", FIRST_SIZE)} numbers with ${formatSize(FIRST_SIZE)} and`,
    `${parameters("head", size)} with ${formatSize(size)}, in the mean of the sets; with the last layers it is`,
    `${parameters("last layers", size)}, with all ${parameters("all", size)}. With ${formatSize(size)} the head has`,
    `${headAccuracy}, the last layers ${lastAccuracy}, all layers ${allAccuracy}: ${conclusion}.${describeOrder(runs)}`,
  ].join(" ");
}

/** Which is better, all layers or the last ones, where every size says the same. */
function describeOrder(runs: readonly Run[]): string {
  const { figures, isBetter } = compareAll(runs);
  if (isBetter === null) return "";
  const better = isBetter ? "All layers are better than the last ones" : "The last layers are better than all";
  return ` ${better}: all against last, ${figures}.`;
}

/** All layers against the last ones; `isBetter` is null where the sizes do not agree on a notable difference. */
function compareAll(runs: readonly Run[]): { readonly figures: string; readonly isBetter: boolean | null } {
  const gainsBySize = sizesOf(runs, "all").map((size) => ({
    size,
    gains: gainsBySet(runs, size, "all", "last layers"),
  }));
  const figures = gainsBySize
    .map(({ size, gains }) => `${formatPoints(meanGain(gains))} with ${formatSize(size)} (${describeSets(gains)})`)
    .join(", ");
  const means = gainsBySize.map(({ gains }) => meanGain(gains));
  const isBetter = means.every((gain) => gain >= NOTABLE);
  return { figures, isBetter: isBetter || means.every((gain) => gain <= -NOTABLE) ? isBetter : null };
}

function describeData(runs: readonly Run[]): string {
  const describe = (method: Method) =>
    sizesOf(runs, method)
      .map((size) => ({ size, gains: gainsBySet(runs, size, method) }))
      .map(({ size, gains }) => `${formatSize(size)} ${formatPoints(meanGain(gains))} (${describeSets(gains)})`)
      .join("; ");
  const measured = sizesOf(runs, "last layers");
  const means = measured.map((size) => meanGain(gainsBySet(runs, size, "last layers")));
  const start = means.findIndex((_, i) => means.slice(i).every((gain) => gain >= NOTABLE));
  const losing = measured.filter((_, i) => (means[i] as number) <= -NOTABLE);
  const pays =
    start < 0
      ? "There is no size from which on the last layers gain half a point in the mean"
      : `From ${formatSize(measured[start] as Size)} on the last layers gain half a point or more in the mean`;
  const loses =
    losing.length === 0 ? "at none they lose as much" : `they lose as much with ${losing.map(formatSize).join(", ")}`;
  return [
    `the last layers against the head: ${describe("last layers")}. All layers: ${describe("all")}.`,
    `${pays}; ${loses}.`,
  ].join(" ");
}

function describeCost(runs: readonly Run[]): string {
  const parts = [...new Set([FIRST_SIZE, ...sizesOf(runs, "all")])].flatMap((size) => {
    const meanOf = (method: Method, value: Value) => meanAt(runs, size, method, value);
    const tuned = methods.slice(1).flatMap((method) => {
      const [operations, seconds] = [meanOf(method, (run) => run.operations), meanOf(method, (run) => run.seconds)];
      const [headOperations, headSeconds] = [
        meanOf("head", (run) => run.operations),
        meanOf("head", (run) => run.seconds),
      ];
      if (operations === null || seconds === null || headOperations === null || headSeconds === null) return [];
      const times = `${formatCount(operations / headOperations)} times the operations and ${formatCount(seconds / headSeconds)} times the seconds`;
      return [
        `${method === "all" ? "all layers" : method} ${times} (${formatCount(operations / 1e9)} GFLOP, ${formatCount(seconds)} s)`,
      ];
    });
    return tuned.length === 0 ? [] : [`with ${formatSize(size)}, ${tuned.join(", ")}`];
  });
  return `of a head's training, ${parts.join("; ")}.`;
}

function describeAdaptability(runs: readonly Run[]): string {
  const method = "last layers";
  const size = largestSize(runs, method);
  if (size === null) return NOTHING;
  const gains = gainsBySet(runs, size, method).sort((a, b) => b.gain - a.gain);
  const name = ({ set, gain }: Gain) => `${set} ${formatPoints(gain)}`;
  const heads = gains.map(({ set }) => meanBySet(select(runs, { set, size, method: "head" }), accuracy) as number);
  const correlation = rankCorrelation(
    heads,
    gains.map(({ gain }) => gain),
  );
  const relation =
    correlation <= -NOTABLE_CORRELATION
      ? "the worse the frozen backbone fits a task, the more its layers gain"
      : correlation >= NOTABLE_CORRELATION
        ? "the better the frozen backbone fits a task, the more its layers gain"
        : "how well the frozen backbone fits a task hardly says what its layers gain";
  const seen = new Set(runs.filter((run) => run.seenInPretraining).map(({ set }) => set));
  const groups = [gains.filter(({ set }) => !seen.has(set)), gains.filter(({ set }) => seen.has(set))];
  const bySeen = groups.every((group) => group.length > 0)
    ? ` Sets that the pre-training of text-static-1 has not seen gain ${formatPoints(meanGain(groups[0] ?? []))} in the mean, the others ${formatPoints(meanGain(groups[1] ?? []))}.`
    : "";
  return `with ${formatSize(size)}, the last layers gain most on ${gains.slice(0, NAMED_SETS).map(name).join(", ")}, least on ${gains.slice(-NAMED_SETS).map(name).join(", ")}. The rank correlation of the gain with the head's accuracy is ${correlation.toFixed(2)}: ${relation}.${bySeen}`;
}

function describeOverfitting(runs: readonly Run[]): string {
  const size = largestSize(runs, "all");
  if (size === null) return NOTHING;
  const describeGaps = (ofSize: Size) =>
    methods
      .flatMap((method) => {
        const value = meanAt(runs, ofSize, method, gap);
        return value === null ? [] : [`${method} ${formatAccuracy(value)}`];
      })
      .join(", ");
  const widening = (meanAt(runs, size, "all", gap) ?? 0) - (meanAt(runs, size, "head", gap) ?? 0);
  const conclusion = widening >= NOTABLE ? "widens" : widening <= -NOTABLE ? "narrows" : "does not change";
  const seenAccuracies = methods
    .slice(0, 2)
    .map((method) => formatAccuracy(meanAt(runs, FIRST_SIZE, method, ({ train }) => train)));
  return `on their training texts, head and last layers have ${seenAccuracies.join(" and ")} with ${formatSize(FIRST_SIZE)}. Train less test accuracy there: ${describeGaps(FIRST_SIZE)}; with ${formatSize(size)}: ${describeGaps(size)}. Training all layers ${conclusion} the gap (${formatPoints(widening)}).`;
}

/** What is not to be read into the numbers of a model. */
export function caveats(runs: readonly Run[]): string[] {
  const order = compareAll(runs);
  const gains = sizes.flatMap((size) =>
    methods.slice(1).flatMap((method) => gainsBySet(runs, size, method).map((gain) => ({ ...gain, size, method }))),
  );
  const worst = gains.reduce((a, b) => (b.gain < a.gain ? b : a));
  const losses = gains.filter(({ gain }) => gain <= -NOTABLE).length;
  const spreads = drawSpreads(runs);
  const points = (value: number) => formatPoints(value).replace("+", "");
  const worstMethod = worst.method === "all" ? "all layers" : worst.method;
  return [
    order.isBetter === null && `whether all layers are better than the last ones: ${order.figures} in the mean`,
    losses > 0 &&
      `that fine-tuning is safe: of ${gains.length} results, ${losses} are half a point or more below the head's; the worst is ${formatPoints(worst.gain)} (${worst.set}, ${formatSize(worst.size)}, ${worstMethod}). The job's own comparison is there for this`,
    spreads.length > 0 &&
      `small differences at one size of one set: between draws of the same size, the gain of the last layers differs by ${points(median(spreads))} points in the median, ${points(Math.max(...spreads))} at most`,
  ].filter((caveat) => caveat !== false);
}

/** The highest less the lowest gain of the last layers, for each set and size with several draws. */
function drawSpreads(runs: readonly Run[]): number[] {
  const groups = Map.groupBy(runs, ({ set, size }) => `${set} ${size}`).values();
  return [...groups].flatMap((group) => {
    const gains = select(group, { method: "last layers" }).flatMap(({ seed, test }) => {
      const head = select(group, { method: "head" }).find((run) => run.seed === seed);
      return head === undefined ? [] : [test - head.test];
    });
    return gains.length < 2 ? [] : [Math.max(...gains) - Math.min(...gains)];
  });
}

/** Spearman's rank correlation: Pearson's of the ranks, equal values having the mean of theirs. */
function rankCorrelation(first: readonly number[], second: readonly number[]): number {
  const ranks = (values: readonly number[]) =>
    values.map((value) => mean(values.map((other) => Number(other < value) + Number(other === value) / 2)));
  const [a, b] = [ranks(first), ranks(second)];
  const centre = 0.5;
  const product = (x: readonly number[], y: readonly number[]) =>
    x.reduce((sum, value, i) => sum + (value - centre) * ((y[i] as number) - centre), 0);
  return product(a, b) / Math.sqrt(product(a, a) * product(b, b)) || 0;
}

export function describeGrid(runs: readonly Run[]): string {
  const draws = Math.max(...runs.map(({ seed }) => seed)) + 1;
  const several = sizes.filter((size) => select(runs, { size }).some(({ seed }) => seed > 0));
  return `${setsOf(runs).length} labelled sets, from ${formatSize(FIRST_SIZE)} to ${formatSize("full")}; ${draws} draws with ${several.join(" and ")} a class, else one`;
}
