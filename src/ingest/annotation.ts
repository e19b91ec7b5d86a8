/** An example as a file has it, before it is checked: of any task, with labels of any type. */
import { fail, ok, type Result } from "../core/failure.ts";
import type { Task } from "../core/head.ts";
import type { ReadReport } from "./report.ts";

export interface Annotation {
  readonly id?: unknown;
  readonly text?: unknown;
  readonly embedding?: unknown;
  readonly image?: unknown;
  /** A label or a list of them. */
  readonly labels?: unknown;
  readonly value?: unknown;
}

/** Narrower than what JavaScript reads as a number: in a file `0x10` is not a number. */
const DECIMAL = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i;
const INTEGER = /^-?\d+$/;

/** The example of the given task, or of the task that the annotation itself shows; not checked yet. */
export type AnnotationReader = (annotation: Annotation, task: Task | null) => Result<unknown>;

/** `names` are those of the labels 0, 1, 2 …; null leaves numbers as they are. */
export function createAnnotationReader(names: readonly string[] | null, report: ReadReport): AnnotationReader {
  const toLabel = (label: unknown): Result<unknown> => {
    const isInteger = typeof label === "string" ? INTEGER.test(label) : Number.isInteger(label);
    if (isInteger && names !== null) {
      const name = names[Number(label)];
      const message = `The label ${label} is not among the ${names.length} named labels, which count from 0.`;
      return name === undefined ? fail("invalid_label", message, { param: "label" }) : ok(name);
    }
    if (isInteger) report.numericLabels++;
    return ok(typeof label === "number" || typeof label === "boolean" ? String(label) : label);
  };
  return (annotation, task) => {
    const target = readTarget(annotation, task ?? inferAnnotationTask(annotation), toLabel);
    if (!target.ok) return target;
    const { id, text, embedding, image } = annotation;
    const example: Record<string, unknown> = target.value;
    if (id !== undefined && id !== null && id !== "") example.id = typeof id === "number" ? String(id) : id;
    if (text !== undefined) example.text = text;
    if (embedding !== undefined) example.embedding = embedding;
    if (image !== undefined) example.image = image;
    return ok(example);
  };
}

function inferAnnotationTask({ labels, value }: Annotation): Task {
  if (value !== undefined) return "regression";
  return Array.isArray(labels) && labels.length !== 1 ? "multi_label" : "single_label";
}

/** The field of the target, with its value. */
function readTarget(
  { labels, value }: Annotation,
  task: Task,
  toLabel: (label: unknown) => Result<unknown>,
): Result<Record<string, unknown>> {
  if (task === "regression" && value !== undefined) return ok({ value: toNumber(value) });
  if (labels === undefined) return ok({});
  if (task === "single_label" && !Array.isArray(labels)) return named("label", toLabel(labels));
  const list: unknown[] = [];
  for (const label of [labels].flat()) {
    const converted = toLabel(label);
    if (!converted.ok) return converted;
    list.push(converted.value);
  }
  if (task === "multi_label") return ok({ labels: list });
  if (list.length > 1) {
    const message = `The row has ${list.length} labels, and here an example has one.`;
    return fail("invalid_label", message, { param: "label" });
  }
  // A label in the place of a value is an error of its own.
  return list.length === 1
    ? ok({ label: list[0] })
    : fail("missing_parameter", "The row has no label.", { param: "label" });
}

function named(field: string, result: Result<unknown>): Result<Record<string, unknown>> {
  return result.ok ? ok({ [field]: result.value }) : result;
}

function toNumber(value: unknown): unknown {
  return typeof value === "string" && DECIMAL.test(value.trim()) ? Number(value) : value;
}

/** The labels in one text, without empty ones. After a backslash a separator is a part of a label. */
export function splitLabels(text: string, separator = "|"): string[] {
  const labels: string[] = [];
  let label = "";
  for (const part of text.split(separator)) {
    const isEscaped = part.endsWith("\\");
    label += isEscaped ? part.slice(0, -1) + separator : part;
    if (isEscaped) continue;
    labels.push(label);
    label = "";
  }
  // A backslash at the end escapes nothing.
  if (label !== "") labels.push(`${label.slice(0, -separator.length)}\\`);
  return labels.map((one) => one.trim()).filter((one) => one !== "");
}
