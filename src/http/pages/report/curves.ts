/** What is drawn: whether scores can be trusted, what more examples would bring, and what is refused. */
import { html } from "hono/html";
import type { Evaluation, Head } from "../../../api/heads.ts";
import { count, counted, type Html, ownText, percent, percentInterval, section, table } from "./format.ts";
import { countAxis, type Plot, plot, shareAxis } from "./plot.ts";

/** A plot and its figures side by side. */
function plotWithTable(picture: Plot, figures: Html): Html {
  return html`<div class="plot"><figure>${plot(picture)}</figure>${figures}</div>`;
}

export function reliabilitySection({ task, evaluation }: Head): Html | null {
  if (task === "regression" || evaluation === null || evaluation.examples === 0) return null;
  const { reliability: bins } = evaluation;
  const heading = "Whether its scores can be trusted";
  if (bins === undefined)
    return section(
      "reliability",
      heading,
      html`<p>This version was trained before the figures of a reliability diagram were kept. Train it again to see one.</p>`,
    );
  const total = bins.reduce((sum, { examples }) => sum + examples, 0);
  const [largest] = bins.toSorted((a, b) => b.examples - a.examples);
  const picture: Plot = {
    id: "reliability-plot",
    title: "Reliability diagram",
    description: `The share that is right against the score, in ${bins.length} bins of equal width. Bins on the dashed line are calibrated; below it, scores are too high. The area of a circle is its bin's share of the examples.`,
    x: shareAxis("score"),
    y: shareAxis("share that is right"),
    series: [
      { style: "reference", points: [0, 1].map((value) => ({ x: value, y: value })) },
      {
        style: "measured",
        points: bins.map(({ confidence, accuracy, examples }) => ({
          x: confidence,
          y: accuracy,
          radius: Math.round(10 * Math.max(2.5, 14 * Math.sqrt(examples / total))) / 10,
        })),
      },
    ],
  };
  return section(
    "reliability",
    heading,
    html`<p>Of inputs with a score of 80 %, 80 % should be right. On the dashed line they are; below it, scores promise too much.${
      largest &&
      ` Most have a score of about ${percent(largest.confidence, 0)}, of which ${percent(largest.accuracy, 0)} are right.`
    }</p>${plotWithTable(
      picture,
      table(
        "Scores and the share that is right",
        ["score", "right", task === "multi_label" ? "decisions" : "examples"],
        bins.map(({ confidence, accuracy, examples }) => [percent(confidence), percent(accuracy), count(examples)]),
      ),
    )}`,
  );
}

export function learningSection({ task, evaluation, training }: Head): Html | null {
  if (task === "regression" || evaluation === null || evaluation.examples === 0) return null;
  const { learning_curve: measured, expected_accuracy: expected, more_examples: more = [], detail } = evaluation;
  const heading = "What more examples would bring";
  if (measured === undefined || measured.length === 0)
    return section(
      "learning",
      heading,
      html`<p>${
        detail === "full"
          ? "There were too few examples for a learning curve, or no room for one."
          : html`There is no learning curve. Train with <code>"evaluation": {"detail": "full"}</code> to get one, if the training has room for it.`
      }</p>`,
    );
  const now = { examples: training.examples, accuracy: evaluation.accuracy_estimate };
  const expectations: Expectation[] = [
    ...(now.accuracy ? [{ times: "", examples: now.examples, ...now.accuracy }] : []),
    ...(expected
      ? [
          { times: " (2 ×)", examples: 2 * now.examples, ...expected["2x"] },
          { times: " (5 ×)", examples: 5 * now.examples, ...expected["5x"] },
        ]
      : []),
  ];
  return section(
    "learning",
    heading,
    html`<p>Measured by trainings on a part of the examples, and expected by a power law through these.${
      expected &&
      ` With twice as many examples like these, ${percent(expected["2x"].value)} are expected to be right; with five times as many, ${percent(expected["5x"].value)}.`
    }</p>${plotWithTable(
      learningPlot(measured, expectations),
      table(
        "Accuracy by the number of examples",
        ["examples", "accuracy", "95 % interval"],
        [
          ...measured.map(({ examples, accuracy, interval }) => [
            count(examples),
            percent(accuracy),
            percentInterval(interval),
          ]),
          ...expectations.map(({ times, examples, value, interval }) => [
            `${count(examples)}${times}, expected`,
            percent(value),
            percentInterval(interval),
          ]),
        ],
      ),
    )}${moreExamples(more)}`,
  );
}

/** What so many examples are expected to bring; `times` says how many times as many as now they are. */
interface Expectation {
  readonly times: string;
  readonly examples: number;
  readonly value: number;
  readonly interval: readonly [number, number];
}

function learningPlot(measured: NonNullable<Evaluation["learning_curve"]>, expectations: readonly Expectation[]): Plot {
  const all = [...measured, ...expectations];
  const lowest = Math.min(...all.map(({ interval }) => interval[0]));
  const floor = Math.max(0, Math.floor(10 * lowest) / 10);
  return {
    id: "learning-plot",
    title: "Learning curve",
    description:
      "Accuracy against the number of examples trained on. Filled circles are measured, hollow ones expected; lines through them are 95 % intervals.",
    x: countAxis(
      "examples",
      Math.min(...all.map(({ examples }) => examples)),
      Math.max(...all.map(({ examples }) => examples)),
    ),
    y: shareAxis("accuracy", floor),
    series: [
      { style: "measured", points: measured.map(({ examples: x, accuracy: y, interval }) => ({ x, y, interval })) },
      { style: "expected", points: expectations.map(({ examples: x, value: y, interval }) => ({ x, y, interval })) },
    ],
  };
}

const MAX_LABELS_WITH_MORE = 10;

function moreExamples(more: NonNullable<Evaluation["more_examples"]>): Html | null {
  if (more.length === 0) return null;
  return html`<h3>Where they would pay most</h3><ol>${more
    .slice(0, MAX_LABELS_WITH_MORE)
    .map(({ label, examples }) => html`<li>${ownText(label)}: ${counted(examples, "more example")}</li>`)}</ol>`;
}

export function scopeSection({ task, evaluation }: Head): Html | null {
  const scope = evaluation?.out_of_scope;
  if (task !== "single_label" || !scope) return null;
  const { threshold, in_scope_kept: kept, expected_recall: recall, auroc, curve = [] } = scope;
  const isPresent = (value: number | null | undefined): value is number => typeof value === "number";
  const sentences = [
    `An input with a scope score below ${threshold.toFixed(3)} counts as out of scope.`,
    isPresent(kept) && `${percent(kept)} of the inputs that belong to a label are kept.`,
    isPresent(recall)
      ? `${percent(recall)} of the inputs that belong to none are refused.`
      : "How many of the inputs that belong to none are refused is not known: too few such examples were held out.",
    isPresent(auroc) &&
      `An input of a label has a higher score than one of none in ${percent(auroc)} of pairs (AUROC).`,
  ].filter((sentence) => sentence !== false);
  const lowestKept = Math.min(1, ...curve.map((point) => point.kept));
  const floor = Math.floor(10 * lowestKept) / 10;
  const lowestRecall = Math.min(recall ?? 1, ...curve.map((point) => point.recall));
  const recallFloor = Math.max(0, Math.floor(10 * lowestRecall - 1) / 10);
  const picture: Plot = {
    id: "scope-plot",
    title: "Scope trade-off",
    description:
      "The share of inputs without a label that is refused, against the share of inputs with a label that is kept, at several thresholds. The hollow circle is the threshold in use.",
    x: shareAxis("kept, of those with a label", floor),
    y: shareAxis("refused, of the others", recallFloor),
    series: [
      { style: "measured", points: curve.map((point) => ({ x: point.kept, y: point.recall })) },
      ...(isPresent(kept) && isPresent(recall)
        ? [{ style: "expected" as const, points: [{ x: kept, y: recall, radius: 7 }] }]
        : []),
    ],
  };
  return section(
    "scope",
    "What it refuses",
    html`<ul>${sentences.map((sentence) => html`<li>${sentence}</li>`)}</ul>${
      curve.length > 0 &&
      plotWithTable(
        picture,
        table(
          "What is kept and what is refused, at several thresholds",
          ["kept", "refused"],
          curve.map((point) => [percent(point.kept), percent(point.recall)]),
        ),
      )
    }`,
  );
}
