/** Which columns of a table, or fields of JSON, hold the parts of an example: by the caller's names, or by usual ones. */
import type { ReadOptions } from "../api/imports.ts";
import { formatPath } from "../api/validation.ts";
import { type Failure, fail, ok, type Result } from "../core/failure.ts";
import { type Task, targetField } from "../core/head.ts";

export type Field = "text" | "label" | "labels" | "value" | "id";
const targetFields = ["label", "labels", "value"] as const;

const labelNames = [
  "category",
  "class",
  "intent",
  "tag",
  "topic",
  "sentiment",
  "target",
  "annotation",
  "output",
  "class_name",
  "class_label",
  "label_name",
  "label_text",
];

/** Taken where a file has no column of the field's own name, and exactly one of these. */
const synonyms: Readonly<Record<Field, readonly string[]>> = {
  text: [
    "input",
    "sentence",
    "utterance",
    "message",
    "content",
    "body",
    "query",
    "question",
    "phrase",
    "comment",
    "review",
    "tweet",
    "document",
    "description",
    "prompt",
    "data",
    "texts",
    "input_text",
    "review_text",
    "text_content",
  ],
  label: labelNames,
  labels: ["label", "categories", "tags", "topics", "classes", ...labelNames],
  value: ["score", "rating", "target", "stars", "label"],
  id: ["external_id", "externalid", "uid", "guid"],
};

/** The names that a file may use for a field, its own first. */
export function namesOf(field: Field): readonly string[] {
  return [field, ...synonyms[field]];
}

function normaliseName(name: string): string {
  return name
    .trim()
    .toLowerCase()
    .replace(/[\s-]+/g, "_");
}

/** The column of a field by its name or a synonym; null if there is none; a failure if there are several. */
export function findColumn(names: readonly string[], field: Field): Result<number | null> {
  const normalised = names.map(normaliseName);
  const indices = (isName: (name: string) => boolean) =>
    [...normalised.keys()].filter((i) => isName(normalised[i] ?? ""));
  const own = indices((name) => name === field);
  const matches = own.length > 0 ? own : indices((name) => synonyms[field].includes(name));
  if (matches.length <= 1) return ok(matches[0] ?? null);
  const candidates = [...new Set(matches.map((i) => quote(names[i] ?? "")))];
  const which =
    candidates.length === 1 ? `The columns ${matches.map((i) => i + 1).join(" and ")}` : candidates.join(" and ");
  const message = `${which} may each be the ${field}. Say which by its name or its position, such as ?${field}=${(matches[0] ?? 0) + 1}.`;
  return fail("invalid_csv", message, { param: field });
}

/** Which target a file without a dataset has: the one that a column is named after. */
export function inferTask(names: readonly string[]): Task {
  const normalised = names.map(normaliseName);
  if (normalised.includes("label")) return "single_label";
  if (normalised.includes("labels")) return "multi_label";
  return normalised.includes("value") ? "regression" : "single_label";
}

/** The column that the caller names for the target, under whichever of its fields' names. */
export function mappedTarget(options: ReadOptions): string | undefined {
  return options.label ?? options.labels ?? options.value;
}

/** Fails where the caller names more than one column for the target. */
export function checkMapping(options: ReadOptions): Failure | null {
  const named = targetFields.filter((field) => options[field] !== undefined);
  if (named.length <= 1) return null;
  const message = `An example has one target: name a column for ${named.join(" or ")}, not for both.`;
  return { code: "invalid_parameter", message, param: named[1] ?? "label" };
}

/** The columns of a table, by index. */
export interface TableColumns {
  readonly text: number;
  readonly target: number;
  readonly id: number | null;
  /** False where the first row is an example. */
  readonly header: boolean;
}

const POSITION = /^\d{1,4}$/;

/**
 * The columns of a table whose first row is `first`. Names that the caller gives are looked up there, in any case. A
 * position counts from 1, or from 0 if one of them is 0; a table that is mapped by positions alone has no header, unless
 * its first row names those very columns.
 */
export function findTableColumns(first: readonly string[], task: Task, options: ReadOptions): Result<TableColumns> {
  const target = targetField[task];
  const mapping = { text: options.text, [target]: mappedTarget(options), id: options.id };
  const positions = Object.values(mapping).filter((name) => name !== undefined && isPosition(first, name));
  const origin = positions.includes("0") ? 0 : 1;
  const find = (field: Field): Result<number | null> => {
    const name = mapping[field as "text"];
    if (name === undefined) return findColumn(first, field);
    if (isPosition(first, name)) {
      const index = Number(name) - origin;
      return index < first.length ? ok(index) : fail("invalid_csv", `There is no column ${name}.`, { param: field });
    }
    const index = first.findIndex((column) => normaliseName(column) === normaliseName(name));
    return index < 0 ? fail("invalid_csv", `There is no column ${quote(name)}.`, { param: field }) : ok(index);
  };
  const header = positions.length === 0 || !isExampleRow(first, task, mapping, origin);
  const columns = { text: find("text"), target: find(target), id: find("id") };
  for (const [name, column] of Object.entries(columns)) {
    if (!column.ok) return column;
    if (column.value === null && name !== "id")
      return fail("invalid_csv", `No column is known to be the ${name === "text" ? "text" : target}.`, {
        param: name === "text" ? "text" : target,
      });
  }
  const index = (column: Result<number | null>) => (column.ok ? column.value : null);
  const id = header || options.id !== undefined ? index(columns.id) : null;
  return ok({ text: index(columns.text) ?? 0, target: index(columns.target) ?? 0, id, header });
}

/** Whether this is a column's position and no column's name. */
function isPosition(first: readonly string[], name: string): boolean {
  return POSITION.test(name) && !first.some((column) => column.trim() === name);
}

/** Whether the first row of a table that is mapped by positions is no header: its cells are not the fields' names. */
function isExampleRow(
  first: readonly string[],
  task: Task,
  mapping: Readonly<Record<string, string | undefined>>,
  origin: number,
): boolean {
  return (["text", targetField[task]] as const).some((field) => {
    const name = mapping[field];
    if (name === undefined || !isPosition(first, name)) return false;
    return !namesOf(field).includes(normaliseName(first[Number(name) - origin] ?? ""));
  });
}

/** How many names a message shows. */
const MAX_NAMES_SHOWN = 12;
const MAX_NAME_CHARACTERS = 40;

export function quote(name: string): string {
  return `'${name.length > MAX_NAME_CHARACTERS ? `${name.slice(0, MAX_NAME_CHARACTERS)}…` : name}'`;
}

export function quoteNames(names: readonly string[]): string {
  const more = names.length > MAX_NAMES_SHOWN ? ` and ${names.length - MAX_NAMES_SHOWN} more` : "";
  return names.slice(0, MAX_NAMES_SHOWN).map(quote).join(", ") + more;
}

/** A name in an answer, not quoted at length. */
export function shortName(name: string): string {
  return formatPath([name]);
}
