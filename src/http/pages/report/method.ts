/** What was last recommended for the dataset, and the five ways in which the methods differ. */
import { html } from "hono/html";
import type { Recommendation } from "../../../api/recommendations.ts";
import { wilsonInterval } from "../../../core/evaluation/metrics.ts";
import {
  count,
  counted,
  figure,
  type Html,
  ownText,
  percent,
  percentInterval,
  points,
  section,
  table,
} from "./format.ts";
import { countAxis, type Plot, plot, shareAxis } from "./plot.ts";

const names: Readonly<Record<NonNullable<Recommendation["recommendation"]>, string>> = {
  head: "a head on the frozen backbone",
  fine_tune: "fine-tuning",
  collect_more_data: "more examples",
  fix_labels: "better labels",
  decision_model: "a decision model",
};

export function methodSection(recommendation: Recommendation | null): Html | null {
  if (recommendation === null) return null;
  const { recommendation: advised, runner_up, confidence, reasons, dataset } = recommendation;
  const sentence =
    advised === null
      ? "The data could not tell which method they need."
      : `These data need ${names[advised]}, with a confidence of ${percent(confidence, 0)}${runner_up === null ? "" : `; next comes ${names[runner_up]}`}.`;
  return section(
    "method",
    "Which method the data need",
    html`<p>${sentence} Recommended for dataset ${ownText(dataset.name)} at revision ${dataset.revision}, ${counted(dataset.examples, "example")}.</p>
<ul>${reasons.map(({ message }) => html`<li>${ownText(message)}</li>`)}</ul>
${accuracies(recommendation)}${differences(recommendation)}`,
  );
}

interface AccuracyRow {
  readonly examples: number;
  readonly head: { readonly accuracy: number; readonly interval: readonly [number, number] };
  readonly fineTuned: number | null;
}

/** The accuracy of both methods by the number of examples, as it was measured, or else is expected. */
function accuracies(recommendation: Recommendation): Html | null {
  const measured = measuredRows(recommendation);
  const rows = measured.length > 0 ? measured : expectedRows(recommendation);
  if (rows.length === 0) return null;
  const sizes = rows.map(({ examples }) => examples);
  const lowest = Math.min(...rows.flatMap(({ head: { interval }, fineTuned }) => [interval[0], fineTuned ?? 1]));
  const picture: Plot = {
    id: "method-plot",
    title: "Accuracy of both methods",
    description: `The accuracy of a head, with its 95 % interval, and of fine-tuning, ${
      measured.length > 0
        ? "as measured on samples of the examples"
        : "as expected with one, two and five times the examples"
    }.`,
    x: countAxis("examples", Math.min(...sizes), Math.max(...sizes)),
    y: shareAxis("accuracy", Math.max(0, Math.floor(10 * lowest) / 10)),
    series: [
      {
        style: "measured",
        points: rows.map(({ examples, head: { accuracy, interval } }) => ({ x: examples, y: accuracy, interval })),
      },
      {
        style: "expected",
        points: rows.flatMap(({ examples, fineTuned }) => (fineTuned === null ? [] : [{ x: examples, y: fineTuned }])),
      },
    ],
  };
  return html`<div class="plot"><figure>${plot(picture)}</figure>${table(
    `Accuracy of both methods by the number of examples, ${measured.length > 0 ? "measured" : "expected"}`,
    ["examples", "head", "95 % interval", "fine-tuning"],
    rows.map(({ examples, head: { accuracy, interval }, fineTuned }) => [
      count(examples),
      percent(accuracy),
      percentInterval(interval),
      fineTuned === null ? "not known" : percent(fineTuned),
    ]),
  )}</div>`;
}

function measuredRows({ measured }: Recommendation): AccuracyRow[] {
  return (measured?.points ?? []).map(({ examples, head_accuracy, fine_tuned_accuracy, test_examples }) => ({
    examples,
    head: { accuracy: head_accuracy, interval: wilsonInterval(head_accuracy, test_examples) },
    fineTuned: fine_tuned_accuracy,
  }));
}

function expectedRows({ dataset, comparison }: Recommendation): AccuracyRow[] {
  const { head, fine_tune: fineTune } = comparison.data_requirements;
  const { expected_accuracy: accuracy } = head;
  if (accuracy === null) return [];
  const gains = fineTune?.expected_gain ?? null;
  return (["1x", "2x", "5x"] as const).map((multiple) => ({
    examples: Number.parseInt(multiple, 10) * dataset.examples,
    head: accuracy[multiple],
    fineTuned: gains && Math.min(1, accuracy[multiple].accuracy + gains[multiple].gain),
  }));
}

function differences({ comparison }: Recommendation): Html {
  const { training_scope: scope, data_requirements: data, compute_cost: cost } = comparison;
  const { adaptability, overfitting_risk: risk } = comparison;
  const known = (value: number | null | undefined, show: (value: number) => string) =>
    value === null || value === undefined ? "not known" : show(value);
  const trained = (method: { readonly trained_parameters: number; readonly share: number } | null) =>
    method === null
      ? "not possible"
      : `${count(method.trained_parameters)} numbers, ${percent(method.share)} of the model`;
  const doubled = data.head.expected_accuracy;
  const price = (method: { readonly seconds: number; readonly usd: number } | null) =>
    method === null ? "not possible" : `${figure(method.seconds)} s, ${figure(method.usd)} USD`;
  return table(
    "The five ways in which they differ",
    ["difference", "head", "fine-tuning"],
    [
      ["what is trained", trained(scope.head), trained(scope.fine_tune)],
      [
        "twice the examples would add",
        known(doubled && doubled["2x"].accuracy - doubled["1x"].accuracy, points),
        known(
          doubled && data.fine_tune?.expected_gain && gainOfDoubling(doubled, data.fine_tune.expected_gain),
          points,
        ),
      ],
      ["what a training costs", price(cost.head), price(cost.fine_tune)],
      ["gain over the head", points(0), known(adaptability.fine_tune?.all?.gain, points)],
      ["train less held-out accuracy", known(risk.head.gap, points), known(risk.fine_tune?.gap, points)],
    ],
  );
}

function gainOfDoubling(
  accuracy: Readonly<Record<"1x" | "2x", { readonly accuracy: number }>>,
  gains: Readonly<Record<"1x" | "2x", { readonly gain: number }>>,
): number {
  return accuracy["2x"].accuracy + gains["2x"].gain - accuracy["1x"].accuracy - gains["1x"].gain;
}
