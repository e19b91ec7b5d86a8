/** What was last recommended for the dataset, and the five ways in which the methods differ. */
import { html } from "hono/html";
import type { Recommendation } from "../../../api/recommendations.ts";
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

type ExpectedAccuracy = NonNullable<Recommendation["expected"]["head"]>;

/** The accuracy of both methods by the number of examples, as far as it is expected or was measured. */
function accuracies({ dataset, comparison, measured }: Recommendation): Html | null {
  const { head, fine_tune: fineTune } = comparison.data_requirements;
  const { expected_accuracy: accuracy } = head;
  if (accuracy === null) return null;
  const gains = fineTune?.expected_gain ?? null;
  const rows = (["1x", "2x", "5x"] as const).map((multiple) => {
    const own = accuracy[multiple];
    return {
      examples: Number.parseInt(multiple, 10) * dataset.examples,
      head: own,
      fineTuned: gains && Math.min(1, own.accuracy + gains[multiple].gain),
    };
  });
  const lowest = Math.min(...rows.flatMap(({ head: { interval }, fineTuned }) => [interval[0], fineTuned ?? 1]));
  const curve = measured?.points.map(({ examples, fine_tuned_accuracy }) => ({ x: examples, y: fine_tuned_accuracy }));
  const picture: Plot = {
    id: "method-plot",
    title: "Accuracy of both methods",
    description:
      "The accuracy that is expected of a head, with its 95 % interval, and of fine-tuning, with one, two and five times the examples.",
    x: countAxis("examples", Math.min(dataset.examples, ...(curve ?? []).map(({ x }) => x)), 5 * dataset.examples),
    y: shareAxis("accuracy", Math.max(0, Math.floor(10 * lowest) / 10)),
    series: [
      { style: "measured", points: rows.map(({ examples, head: own }) => toPoint(examples, own)) },
      {
        style: "expected",
        points:
          curve ??
          rows.flatMap(({ examples, fineTuned }) => (fineTuned === null ? [] : [{ x: examples, y: fineTuned }])),
      },
    ],
  };
  return html`<div class="plot"><figure>${plot(picture)}</figure>${table(
    "Accuracy of both methods by the number of examples",
    ["examples", "head", "95 % interval", "fine-tuning"],
    rows.map(({ examples, head: own, fineTuned }) => [
      count(examples),
      percent(own.accuracy),
      percentInterval(own.interval),
      fineTuned === null ? "not known" : percent(fineTuned),
    ]),
  )}</div>`;
}

function toPoint(examples: number, { accuracy, interval }: ExpectedAccuracy) {
  return { x: examples, y: accuracy, interval };
}

function differences({ comparison }: Recommendation): Html {
  const { training_scope: scope, data_requirements: data, compute_cost: cost } = comparison;
  const { adaptability, overfitting_risk: risk } = comparison;
  const known = (value: number | null | undefined, show: (value: number) => string) =>
    value === null || value === undefined ? "not known" : show(value);
  const trained = (of: { readonly trained_parameters: number; readonly share: number } | null) =>
    of === null ? "not possible" : `${count(of.trained_parameters)} numbers, ${percent(of.share)} of the model`;
  const doubled = data.head.expected_accuracy;
  const price = (of: { readonly seconds: number; readonly usd: number } | null) =>
    of === null ? "not possible" : `${figure(of.seconds)} s, ${figure(of.usd)} USD`;
  return table(
    "The five ways in which they differ",
    ["", "head", "fine-tuning"],
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
