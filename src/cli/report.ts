/** What the demo prints: the evaluation of its head, its predictions, and the same steps as shell commands. */
import { randomBytes } from "node:crypto";
import type { DatasetImport, Head, ImportType, Prediction } from "../sdk/client.ts";
import { formatConfusion } from "./confusion.ts";
import type { HeldOutRow } from "./held-out.ts";
import { displayWidth, formatDuration, formatPercent, formatTable, printHeading, truncate } from "./terminal.ts";

const MAX_ERRORS_PRINTED = 5;

/** How the file was read, which rows were left out and why, and what looks wrong. */
export function printImport(imported: DatasetImport): void {
  const { detected, added, unchanged, rejected, errors, ignored_columns, warnings } = imported;
  const from = Object.entries(detected.columns).map(([field, column]) => `${field} from '${column}'`);
  const separator = detected.delimiter === null ? "" : `, separated by ${JSON.stringify(detected.delimiter)}`;
  const how = [detected.system ?? detected.format, detected.encoding].join(", ");
  console.log(`  ${[how + separator, ...from].join("; ")}`);
  if (ignored_columns.length > 0) console.log(`  Ignored columns: ${truncate(ignored_columns.join(", "), 80)}.`);
  console.log(`  ${added} examples.${unchanged > 0 ? ` ${unchanged} rows came twice and count once.` : ""}`);
  for (const { line, message } of errors.slice(0, MAX_ERRORS_PRINTED))
    console.log(`  Line ${line} left out: ${message}`);
  if (rejected > MAX_ERRORS_PRINTED) console.log(`  … ${rejected} lines in all were left out.`);
  for (const { message, examples } of warnings)
    console.log(`  ${message}${examples.length > 0 ? ` ${truncate(examples.join(", "), 80)}` : ""}`);
}

export function printEvaluation(head: Head, columns: number): void {
  const { evaluation, training } = head;
  const { l2, iterations } = training;
  console.log(
    `  ${head.labels.length} labels, ${training.examples} examples, backbone ${head.backbone.id} (${head.dimensions} dimensions),`,
  );
  console.log(
    `  l2 ${l2.toPrecision(3)}, ${iterations} iterations, ${formatDuration(training.milliseconds)} inside the Worker.`,
  );
  if (evaluation?.accuracy === undefined) {
    console.log("  There are too few examples to hold any out, so it was not evaluated.");
    return;
  }
  const { method, folds, accuracy_interval, macro_f1, log_loss, ece, confusion } = evaluation;
  printHeading(
    `How good it is on examples it was not trained on (${method === "holdout" ? "holdout" : `${folds}-fold cross-validation`})`,
  );
  const interval = accuracy_interval ? `   95 % interval ${accuracy_interval.map(formatPercent).join(" to ")}` : "";
  console.log(`  accuracy                    ${formatPercent(evaluation.accuracy)}${interval}`);
  console.log(`  macro-F1                    ${macro_f1?.toFixed(3)}`);
  console.log(`  log loss                    ${log_loss?.toFixed(3)}`);
  console.log(`  expected calibration error  ${ece?.toFixed(3)}\n`);
  if (confusion) console.log(formatConfusion(confusion, columns));
}

export function printPredictions(
  predictions: readonly Prediction[],
  texts: readonly string[],
  truth: readonly HeldOutRow[],
  columns: number,
): void {
  const labels = predictions.map(({ label = "", score = 0, in_scope }, i) => {
    const expected = truth[i]?.label;
    const scope = in_scope === false ? "out of scope" : "";
    const verdict = expected === undefined ? [] : [truncate(expected, 24), expected === label ? "right" : "wrong"];
    return [score.toFixed(2), truncate(label, 24), scope, ...verdict];
  });
  const usedWidth = Math.max(...formatTable(labels, labels.length).split("\n").map(displayWidth));
  const rows = labels.map((row, i) => [truncate(texts[i] ?? "", Math.max(24, columns - usedWidth - 8)), ...row]);
  const titles = ["text", "score", "predicted", "", ...(truth.length > 0 ? ["true", ""] : [])];
  console.log(formatTable([titles, ...rows], titles.length));
}

/** A table of the steps' times, with their sum. */
export function printStepTimes(stepTimes: readonly (readonly [string, number])[]): void {
  const total = stepTimes.reduce((sum, [, ms]) => sum + ms, 0);
  const rows = [...stepTimes, ["all", total] as const].map(([name, ms]) => [name, formatDuration(ms)]);
  console.log(formatTable(rows, 1));
}

function shellQuote(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

interface ManualImport {
  readonly file: string;
  readonly type: ImportType;
  readonly options: Readonly<Record<string, string | boolean | undefined>>;
  /** One to classify. */
  readonly text: string;
}

/** Shell commands that do the same against `npm start`. They work as they are. */
export function manualCommands({ file, type, options, text }: ManualImport): string {
  const adminKey = randomBytes(16).toString("hex");
  const json = `-H "Authorization: Bearer $KEY" -H 'content-type: application/json'`;
  const setOptions = Object.entries(options).filter(([, value]) => value !== undefined);
  const query = new URLSearchParams(setOptions.map(([name, value]) => [name, String(value)])).toString();
  const examples = `$GRAFT/v1/datasets/tickets/examples${query === "" ? "" : shellQuote(`?${query}`)}`;
  return `# in one terminal
ADMIN_KEY=${adminKey} npm start

# in another
GRAFT=http://127.0.0.1:8787
KEY=$(curl -sS $GRAFT/v1/admin/tenants -H 'Authorization: Bearer ${adminKey}' -H 'content-type: application/json' -d '{}' | sed 's/.*"secret":"\\([^"]*\\)".*/\\1/')
curl -sS $GRAFT/v1/datasets ${json} -d '{"name":"tickets","task":"single_label","modality":"text"}'
curl -sS ${examples} -H "Authorization: Bearer $KEY" -H 'content-type: ${type}' --data-binary @${shellQuote(file)}
curl -sS $GRAFT/v1/heads ${json} -d '{"name":"support","dataset":"tickets"}'
curl -sS $GRAFT/v1/heads/support/predict ${json} -d ${shellQuote(JSON.stringify({ input: text, top_k: 3 }))}`;
}
