// Classifies without the service, from the files that export.mjs has written. Prints a line of JSON for each text.
//
//   node examples/offline-head/classify.mjs FOLDER
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { lexicalFeatures } from "./lexical.mjs";

const [folder] = process.argv.slice(2);
const head = JSON.parse(await readFile(join(folder, "head.json"), "utf8"));
const { embeddings } = JSON.parse(await readFile(join(folder, "embeddings.json"), "utf8"));

for (const [text, embedding] of Object.entries(embeddings)) {
  const outputs = predict(head, embedding, text);
  const result = head.task === "regression" ? { value: outputs[0] } : { scores: rank(head.labels, outputs) };
  console.log(JSON.stringify({ text, ...result }));
}

/** Each label's probability, or the value alone for regression. The export's `formula` says the same. */
function predict({ task, weights, lexical, visible_text, bias, temperature, value_range: range }, embedding, text) {
  const features = lexical === null ? null : lexicalFeatures(lexical, visible_text ? visible(text) : text);
  const logits = weights.map((row, k) => {
    let sum = bias[k];
    for (const [j, x] of embedding.entries()) sum += row[j] * x;
    // A head that was trained with `lexical: false` ends here.
    for (const [column, value] of features ?? []) sum += lexical.weights[k][column] * value;
    return sum / temperature;
  });
  if (task === "regression")
    return logits.map((value) => (range ? Math.min(range[1], Math.max(range[0], value)) : value));
  return task === "single_label" ? softmax(logits) : logits.map((logit) => 1 / (1 + Math.exp(-logit)));
}

/** A text without characters that nobody sees. Those that join an emoji are no part of a word anyway. */
function visible(text) {
  return text.replace(/(\u{1f3f4}[\u{e0020}-\u{e007e}]+\u{e007f})|\p{Default_Ignorable_Code_Point}+/gu, "$1");
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const exponentials = logits.map((logit) => Math.exp(logit - largest));
  const sum = exponentials.reduce((a, b) => a + b);
  return exponentials.map((each) => each / sum);
}

/** Labels with their probabilities, the most probable first, as POST /v1/heads/{name}/predict shows them. */
function rank(labels, probabilities) {
  return labels.map((label, k) => ({ label, score: probabilities[k] })).sort((a, b) => b.score - a.score);
}
