/** Which labels are taken for which: the confusion matrix, and examples of the pairs that are confused most often. */
import { html } from "hono/html";
import type { Evaluation, Head } from "../../../api/heads.ts";
import { counted, type Html, ownText, scrollable, section } from "./format.ts";

/** More labels fit on no screen. */
const MAX_MATRIX_LABELS = 30;

type Confusion = NonNullable<Evaluation["confusion"]>;

/** @param texts of examples by id: null where they are to be left out */
export function confusionSection(
  { task, labels, dataset, modality, evaluation }: Head,
  texts: ReadonlyMap<string, string> | null,
): Html | null {
  if (task !== "single_label" || evaluation === null || evaluation.examples === 0) return null;
  const { confusion, confused, reliability } = evaluation;
  // Both were first kept at the same time.
  const pairs = confused ?? (reliability && []);
  return section(
    "confusion",
    "What it confuses",
    html`${
      confusion
        ? matrix(confusion)
        : html`<p>The confusion matrix is kept of at most 300 labels; this head has ${labels.length}.</p>`
    }<h3>The most confused pairs</h3>${
      pairs
        ? pairList(pairs, { texts, hasIds: dataset.name !== null, isText: modality === "text" })
        : html`<p>This version was trained before they were kept. Train it again to see them.</p>`
    }`,
  );
}

function matrix({ labels, matrix: counts }: Confusion): Html {
  const countOf = (row: number, column: number) => counts[row]?.[column] ?? 0;
  const mistakes = labels.map((_, k) =>
    labels.reduce((sum, _label, i) => sum + (i === k ? 0 : countOf(k, i) + countOf(i, k)), 0),
  );
  const shown = [...labels.keys()]
    .sort((a, b) => (mistakes[b] ?? 0) - (mistakes[a] ?? 0) || a - b)
    .slice(0, MAX_MATRIX_LABELS)
    .sort((a, b) => a - b);
  const cell = (row: number, column: number) => {
    const value = countOf(row, column);
    const total = (counts[row] ?? []).reduce((sum, each) => sum + each, 0);
    const share = total === 0 ? 0 : value / total;
    return value === 0
      ? html`<td class="none">0</td>`
      : html`<td class="${row === column ? "right" : "wrong"}" style="--share:${share.toFixed(2)}">${value}</td>`;
  };
  return html`<p>How many held-out examples of each label (rows) got which label (columns). On the diagonal they are right.${
    shown.length < labels.length && ` Of ${labels.length} labels, it shows the ${shown.length} with the most mistakes.`
  }</p>${scrollable(
    "Confusion matrix",
    html`<table class="matrix"><caption>Confusion matrix</caption>
<thead><tr><th scope="col">label</th>${shown.map((column) => html`<th scope="col" class="turned"><span>${ownText(labels[column] ?? "")}</span></th>`)}</tr></thead>
<tbody>${shown.map(
      (
        row,
      ) => html`<tr><th scope="row">${ownText(labels[row] ?? "")}</th>${shown.map((column) => cell(row, column))}</tr>
`,
    )}</tbody></table>`,
  )}`;
}

interface PairExamples {
  readonly texts: ReadonlyMap<string, string> | null;
  /** Whether the examples are stored. */
  readonly hasIds: boolean;
  readonly isText: boolean;
}

function pairList(pairs: NonNullable<Evaluation["confused"]>, examples: PairExamples): Html {
  if (pairs.length === 0) return html`<p>No held-out example got a wrong label.</p>`;
  return html`${note(examples)}<ol class="pairs">${pairs.map(
    ({
      label,
      predicted,
      count,
      examples: ids,
    }) => html`<li><p>${ownText(label)} taken for ${ownText(predicted)}: ${counted(count, "example")}</p>${
      examples.texts !== null &&
      examples.isText &&
      ids.length > 0 &&
      html`<ul>${ids.map((id) => showExample(examples.texts?.get(id)))}</ul>`
    }</li>
`,
  )}</ol>`;
}

function showExample(text: string | undefined): Html {
  return text === undefined
    ? html`<li class="note">deleted</li>`
    : html`<li><blockquote dir="auto">${text}</blockquote></li>`;
}

function note({ texts, hasIds, isText }: PairExamples): Html | null {
  if (!hasIds) return html`<p class="note">The examples were not of a dataset, so that their texts are not stored.</p>`;
  if (!isText) return html`<p class="note">The inputs are embeddings, and have no texts to show.</p>`;
  if (texts === null) return html`<p class="note">The examples' texts are left out.</p>`;
  return null;
}
