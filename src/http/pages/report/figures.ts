/** The figures of an evaluation, in words. */
import { html } from "hono/html";
import type { Evaluation, Head } from "../../../api/heads.ts";
import {
  counted,
  figure,
  type Html,
  type Interval,
  ownText,
  percent,
  percentInterval,
  points,
  section,
  table,
} from "./format.ts";
import { describeMethod, testSentence } from "./training.ts";

export function figuresSection(head: Head): Html {
  const { evaluation } = head;
  if (evaluation === null || evaluation.examples === 0) {
    const reason = evaluation?.reason ?? "It was trained without an evaluation.";
    const test = testSentence(head);
    return section(
      "figures",
      "How good it is",
      html`<p>There are no figures. ${reason}</p>${test && html`<ul>${test}</ul>`}`,
    );
  }
  const sentences = head.task === "regression" ? valueSentences(evaluation) : labelSentences(head.task, evaluation);
  return section(
    "figures",
    "How good it is",
    html`<p>Judged on ${describeMethod(evaluation)}.</p>${keyFigures(evaluation)}
<ul>${sentences.map(
      (sentence) => html`<li>${sentence}</li>
`,
    )}${testSentence(head)}</ul>`,
  );
}

/** The figures that one looks for first. */
function keyFigures(evaluation: Evaluation): Html {
  const { accuracy, accuracy_interval, accuracy_estimate, macro_f1, ece, r2, r2_interval, mae, rmse } = evaluation;
  const range = (interval: Interval | undefined, show: (interval: Interval) => string) => interval && show(interval);
  const showValues = ([low, high]: Interval) => `${figure(low)} to ${figure(high)}`;
  const figures: readonly (readonly [string, string | undefined, string | undefined])[] = [
    ["accuracy", accuracy === undefined ? undefined : percent(accuracy), range(accuracy_interval, percentInterval)],
    [
      "expected accuracy",
      accuracy_estimate && percent(accuracy_estimate.value),
      range(accuracy_estimate?.interval, percentInterval),
    ],
    ["macro F1", macro_f1 === undefined ? undefined : percent(macro_f1), undefined],
    ["calibration error", ece === undefined ? undefined : points(ece), undefined],
    ["R²", typeof r2 === "number" ? figure(r2) : undefined, range(r2_interval, showValues)],
    ["mean absolute error", mae === undefined ? undefined : figure(mae), range(evaluation.mae_interval, showValues)],
    [
      "root mean squared error",
      rmse === undefined ? undefined : figure(rmse),
      range(evaluation.rmse_interval, showValues),
    ],
  ];
  return html`<dl class="key">${figures.map(
    ([name, value, interval]) =>
      value !== undefined &&
      html`<div><dt>${name}</dt><dd>${value}</dd>${interval !== undefined && html`<dd class="note">95 %: ${interval}</dd>`}</div>
`,
  )}</dl>`;
}

function labelSentences(task: Head["task"], evaluation: Evaluation): string[] {
  const {
    accuracy,
    accuracy_interval,
    accuracy_estimate: estimate,
    train_accuracy,
    generalization_gap: gap,
  } = evaluation;
  const { macro_f1, micro_f1, ece, ece_uncalibrated, automation = [] } = evaluation;
  const sentences: string[] = [];
  const interval = accuracy_interval ? ` (95 % interval: ${percentInterval(accuracy_interval)})` : "";
  if (accuracy !== undefined)
    sentences.push(
      task === "multi_label"
        ? `Of ${percent(accuracy)} of the inputs, all labels are right${interval}.`
        : `${percent(accuracy)} of the inputs get the right label${interval}.`,
    );
  if (estimate !== undefined)
    sentences.push(
      `The head itself, which is trained on all examples, is expected to be right on ${percent(estimate.value)} of inputs like these (${percentInterval(estimate.interval)}).`,
    );
  if (train_accuracy !== undefined && gap !== undefined)
    sentences.push(`On examples that it was trained on ${percent(train_accuracy)} are right: ${points(gap)} more.`);
  for (const { accuracy: asked, threshold, share, interval: range } of automation) {
    const error = percent(1 - asked, 0);
    sentences.push(
      threshold === null
        ? `No score is high enough to automate anything at ${error} error.`
        : `It can automate ${percent(share, 0)} at ${error} error (${percentInterval(range)}): the inputs with a score of at least ${threshold.toFixed(2)}.`,
    );
  }
  if (micro_f1 !== undefined) sentences.push(`Over all decisions about labels, F1 is ${percent(micro_f1)}.`);
  if (macro_f1 !== undefined) sentences.push(`The mean F1 of the labels is ${percent(macro_f1)}.`);
  if (ece !== undefined && ece_uncalibrated !== undefined)
    sentences.push(
      `Its scores are ${points(ece)} away from the share that is right, on average; before they were calibrated it was ${points(ece_uncalibrated)}.`,
    );
  return sentences;
}

function valueSentences({ mae, rmse, r2 }: Evaluation): string[] {
  const sentences: string[] = [];
  if (mae !== undefined) sentences.push(`Predictions are off by ${figure(mae)} on average.`);
  if (rmse !== undefined)
    sentences.push(`The root of the mean squared error, which large errors weigh on, is ${figure(rmse)}.`);
  if (typeof r2 === "number") sentences.push(`It explains ${percent(r2)} of the variance of the values (R²).`);
  return sentences;
}

/** How many labels are shown at once. */
const MAX_OPEN_LABELS = 25;

/** The figures of each label, weakest first. */
export function labelsSection({ evaluation }: Head): Html | null {
  const perClass = evaluation?.per_class ?? [];
  if (perClass.length === 0) return null;
  const ascending = perClass.toSorted((a, b) => (a.f1 ?? 2) - (b.f1 ?? 2));
  const show = (share: number | null) => (share === null ? "–" : percent(share));
  const hasThresholds = perClass.some(({ threshold }) => threshold !== undefined);
  const rowsOf = (caption: string, classes: typeof ascending) =>
    table(
      caption,
      ["label", "examples", "precision", "recall", "F1", ...(hasThresholds ? ["threshold"] : [])],
      classes.map(({ label, support, precision, recall, f1, threshold }) => [
        ownText(label),
        support,
        show(precision),
        show(recall),
        show(f1),
        ...(hasThresholds ? [threshold?.toFixed(2) ?? "–"] : []),
      ]),
    );
  const others = ascending.slice(MAX_OPEN_LABELS);
  return section(
    "labels",
    "Each label",
    html`<p>Precision: of the inputs that get the label, how many have it. Recall: of the inputs that have the label, how many get it. A label without held-out examples has none.</p>${rowsOf("Labels, the one with the least F1 first", ascending.slice(0, MAX_OPEN_LABELS))}${
      others.length > 0 &&
      html`<details><summary>${counted(others.length, "more label")}</summary>${rowsOf("Further labels", others)}</details>`
    }`,
  );
}
