/** What a version was trained on, and how. */
import { html } from "hono/html";
import type { Evaluation, Head } from "../../../api/heads.ts";
import { count, counted, figure, type Html, ownText, percent, section, table } from "./format.ts";

const tasks: Record<Head["task"], string> = {
  single_label: "one label an input",
  multi_label: "any number of labels an input",
  regression: "a number an input",
};

const methods: Record<Head["training"]["method"], string> = {
  head: "a head on a frozen backbone",
  fine_tune: "a head, and layers of the backbone",
  zero_shot: "a head on a frozen backbone, from names and descriptions of labels alone",
};

export function trainingSection(head: Head): Html {
  const { task, modality, labels, backbone, training } = head;
  const { lexical, candidates = [], trained_parameters, total_parameters } = training;
  const facts: readonly (readonly [string, unknown])[] = [
    ["Examples", describeDataset(head)],
    ["Predicts", `${tasks[task]}${labels.length === 0 ? "" : `, of ${counted(labels.length, "label")}`}`],
    ["Reads", describeInputs(modality, backbone.id, lexical)],
    ["Trained", html`<time datetime="${isoTime(head)}">${isoTime(head).replace("T", " ").replace("Z", " UTC")}</time>`],
    ["Method", methods[training.method]],
    ["Took", describeCost(training)],
    ...(trained_parameters === undefined || total_parameters === undefined
      ? []
      : [["Parameters", `${count(trained_parameters)} trained, of ${count(total_parameters)}`] as const]),
  ];
  return section(
    "training",
    "What it was trained on",
    html`<dl class="facts">${facts.map(([term, text]) => html`<div><dt>${term}</dt><dd>${text}</dd></div>`)}</dl>${
      candidates.length > 0 &&
      table(
        "Backbones that were compared on held-out examples",
        ["backbone", "words", task === "regression" ? "squared error" : "log loss", "accuracy"],
        candidates.map(({ backbone: id, lexical: words, log_loss, accuracy }) => [
          id,
          words ? "yes" : "no",
          figure(log_loss),
          accuracy === null ? "–" : percent(accuracy),
        ]),
      )
    }`,
  );
}

function describeDataset({ dataset, training }: Head): string {
  const source =
    dataset.name === null
      ? "sent with the training or in files"
      : `of the dataset ${dataset.name}, revision ${dataset.revision}`;
  const left = dataset.examples - training.examples;
  return `${counted(training.examples, "example")} ${source}${left > 0 ? `; ${count(left)} more are out of scope` : ""}`;
}

function describeInputs(modality: Head["modality"], backbone: string, lexical: boolean | undefined): string {
  if (modality !== "text") return "embeddings of your own";
  return `texts by the backbone ${backbone}${lexical ? ", and their words beside it" : ""}`;
}

function isoTime({ created_at }: Pick<Head, "created_at">): string {
  return new Date(1000 * created_at).toISOString().replace(/\.\d+/, "");
}

function describeCost({ milliseconds, operations, usd }: Head["training"]): string {
  const time = `${figure(milliseconds / 1000)} s`;
  if (operations === undefined || usd === undefined) return time;
  return `${time}, ${figure(operations / 1e9)} billion operations, about ${figure(usd)} USD`;
}

/** Which examples judge the version. */
export function describeMethod({ method, folds, examples }: Evaluation): string {
  if (method === "cross_validation")
    return `${counted(examples, "example")}, each predicted by one of ${folds} models that was trained without it`;
  return `${counted(examples, "example")} that were held out of the training that is judged`;
}

export function testSentence({ test, task }: Head): Html | null {
  if (!test) return null;
  const figureName = task === "regression" ? "R²" : "accuracy";
  const result =
    test.accuracy === null
      ? "the version could not be tested"
      : `the ${figureName} is ${task === "regression" ? figure(test.accuracy) : percent(test.accuracy)}`;
  return html`<li>On the test set ${ownText(test.dataset)} ${result}.</li>`;
}
