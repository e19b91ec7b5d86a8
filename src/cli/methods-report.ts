/** What the demo prints of both methods: their accuracy by the number of examples, and the five ways in which they differ. */
import type { Recommendation } from "../sdk/client.ts";
import type { MeasuredSet } from "./methods.ts";
import { formatDuration, formatPercent, formatTable, printHeading } from "./terminal.ts";

type Comparison = Recommendation["comparison"];
const UNKNOWN = "–";
const names: Record<NonNullable<Recommendation["recommendation"]>, string> = {
  head: "a head",
  fine_tune: "fine-tuning",
  collect_more_data: "more data",
  fix_labels: "better labels",
  decision_model: "a decision model",
};

export function printMethods(sets: readonly MeasuredSet[]): void {
  for (const { title, recommendation } of sets) {
    printHeading(`Both methods on the same rows. ${title}`);
    const { measured, error } = recommendation;
    if (error !== undefined) console.log(`  Nothing was measured: ${error.message}\n`);
    const curve = accuracyRows(recommendation);
    if (curve.length > 0) {
      const tested = measured?.points[0]?.test_examples ?? 0;
      console.log(`  Accuracy on ${tested} other texts, with its 95 % interval:\n`);
      console.log(`${formatTable([["examples", "head", "fine-tuned"], ...curve], 0)}\n`);
    }
    console.log(formatTable([["", "", "head", "fine-tuning"], ...differenceRows(recommendation.comparison)], 2));
    console.log(`\n  ${describeRecommendation(recommendation)}`);
  }
}

function accuracyRows({ comparison }: Recommendation): string[][] {
  const { head, fine_tune } = comparison.data_requirements;
  const fineTuned = new Map(fine_tune?.learning_curve.map((point) => [point.examples, point]));
  return head.learning_curve.flatMap((point) => {
    const other = fineTuned.get(point.examples);
    return other === undefined ? [] : [[`${point.examples}`, formatAccuracy(point), formatAccuracy(other)]];
  });
}

function formatAccuracy({
  accuracy,
  interval,
}: {
  readonly accuracy: number;
  readonly interval?: readonly [number, number] | undefined;
}): string {
  return (
    formatPercent(accuracy) +
    (interval === undefined ? "" : ` (${interval.map((end) => (100 * end).toFixed(1)).join("–")})`)
  );
}

/** The five differences, each with some figures of both methods. */
function differenceRows(comparison: Comparison): string[][] {
  const { training_scope, data_requirements, compute_cost, adaptability, overfitting_risk } = comparison;
  const { head: ownData, fine_tune: layerData } = data_requirements;
  const { head: ownCost, fine_tune: layerCost } = compute_cost;
  const { head: ownFit, fine_tune: layerFit } = overfitting_risk;
  const scopes = [training_scope.head, training_scope.fine_tune];
  const costs = [ownCost, layerCost].map(
    (cost) => cost && { isMeasured: cost.measured !== null, ...(cost.measured ?? cost) },
  );
  const fits = [ownFit, layerFit];
  const { min, max } = ownData.examples_per_class;
  const examples = min === max ? `${min}` : `${min} to ${max}`;
  return [
    ["what is trained", "numbers", ...scopes.map((scope) => show(scope?.trained_parameters, formatCount))],
    ["", "of all", ...scopes.map((scope) => show(scope?.total_parameters, formatCount))],
    ["the data it needs", "examples a label, now", examples, examples],
    ["", "expected of twice as many", ...showData(ownData, layerData, "2x")],
    ["", "expected of five times as many", ...showData(ownData, layerData, "5x")],
    ["what it costs", "operations", ...costs.map((cost) => show(cost?.operations, formatOperations))],
    ["", "time", ...costs.map((cost) => show(cost?.seconds, (seconds) => formatDuration(1000 * seconds)))],
    ["", "price", ...costs.map((cost) => show(cost?.usd, (usd) => `${usd.toFixed(6)} USD`))],
    [
      "",
      "the cost is",
      ...costs.map((cost) => show(cost?.isMeasured, (isMeasured) => (isMeasured ? "measured" : "estimated"))),
    ],
    [
      "how far it adapts",
      "expected of the last layers",
      "–",
      show(adaptability.fine_tune?.last_layers?.gain, formatGain),
    ],
    ["", "expected of all layers", "–", show(adaptability.fine_tune?.all?.gain, formatGain)],
    ["how it overfits", "right on its own examples", ...fits.map((fit) => show(fit?.train_accuracy, formatPercent))],
    ["", "right on held-out ones", ...fits.map((fit) => show(fit?.held_out_accuracy, formatPercent))],
    ["", "numbers an example", ...fits.map((fit) => show(fit?.parameters_per_example, formatCount))],
  ];
}

function show<T>(value: T | null | undefined, format: (value: T) => string): string {
  return value === null || value === undefined ? UNKNOWN : format(value);
}

/** The head's accuracy with more examples, and what fine-tuning adds to it. */
function showData(
  head: Comparison["data_requirements"]["head"],
  fineTune: Comparison["data_requirements"]["fine_tune"],
  multiple: "2x" | "5x",
): string[] {
  return [
    show(head.expected_accuracy?.[multiple].accuracy, formatPercent),
    show(fineTune?.expected_gain?.[multiple].gain, formatGain),
  ];
}

function describeRecommendation({ recommendation, confidence, reasons }: Recommendation): string {
  const [reason] = reasons;
  const because = reason === undefined ? "" : ` ${reason.message}`;
  if (recommendation === null) return `Recommended: nothing yet.${because}`;
  return `Recommended: ${names[recommendation]} (confidence ${formatPercent(confidence)}).${because}`;
}

function formatGain(gain: number): string {
  const points = (100 * gain).toFixed(1).replace("-0.0", "0.0");
  return `${points.startsWith("-") ? points.replace("-", "−") : `+${points}`} points`;
}

function formatOperations(operations: number): string {
  return `${formatCount(operations / 1e9)} GFLOP`;
}

function formatCount(count: number): string {
  return new Intl.NumberFormat("en", { maximumFractionDigits: count < 10 ? 1 : 0 }).format(count);
}
