/** Reads objects of JSON as examples: in the shape of a labelling tool, or by the names of their fields. */
import jsonpointer from "jsonpointer";
import type { ReadOptions } from "../api/imports.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { type Task, targetField } from "../core/head.ts";
import { type AnnotationReader, splitLabels } from "./annotation.ts";
import { type Field, findColumn, mappedTarget, quoteNames, shortName } from "./columns.ts";
import type { ReadReport } from "./report.ts";
import { findSystem, isObject, type JsonObject, readPair } from "./systems.ts";

const inputFields: ReadonlySet<string> = new Set(["text", "embedding", "image"]);
const targetFields: ReadonlySet<string> = new Set(Object.values(targetField));

/** An unchecked example, or null for a row that is none. */
export type RecordReader = (row: unknown, task: Task | null) => Result<unknown> | null;

export function createRecordReader(
  options: ReadOptions,
  readAnnotation: AnnotationReader,
  report: ReadReport,
): RecordReader {
  const columns = createFieldColumns(options, report);
  const isMapped = [options.text, options.id, mappedTarget(options)].some((name) => name !== undefined);
  const readFields = (row: JsonObject, task: Task): Result<unknown> => {
    const found = columns.find(row, targetField[task]);
    if (!found.ok) return found;
    const { id, text, target } = found.value;
    if (target === undefined && !isMapped) {
      const ownTargets = Object.entries(row).filter(([name]) => targetFields.has(name));
      // A target of another task is an error of its own.
      if (ownTargets.length > 0) return ok({ text, ...Object.fromEntries(ownTargets) });
    }
    const missing = text === undefined && !("embedding" in row || "image" in row) ? "text" : targetField[task];
    if (missing === "text" || target === undefined) {
      const message = `The row has the fields ${quoteNames(Object.keys(row))}, and none is known to be the ${missing}. Name it '${missing}', or say which it is, as by ?${missing}=/path/to/it.`;
      return fail("missing_parameter", message, { param: missing });
    }
    const { embedding, image } = row;
    const annotation = {
      id,
      ...(text === undefined ? {} : { text }),
      ...(embedding === undefined ? {} : { embedding }),
      ...(image === undefined ? {} : { image }),
      ...(task === "regression" ? { value: target } : { labels: toLabels(target, task, options) }),
    };
    return readAnnotation(annotation, task);
  };
  return (raw, task) => {
    const row = readPair(raw) ?? raw;
    if (!isObject(row)) return ok(row);
    if (!isMapped && options.label_names === undefined && isPlain(row, task)) {
      columns.addPlain(row);
      return ok(row);
    }
    const system = isMapped ? null : findSystem(row);
    if (system === null) return readFields(row, task ?? inferRecordTask(row));
    if (report.detected.system === null) report.detected = { ...report.detected, system: system.name };
    const read = system.read(row);
    if ("skipped" in read) {
      report.skip(read.skipped);
      return null;
    }
    return read.ok ? readAnnotation(read.value, task) : read;
  };
}

/** Whether a row is an example as the API itself takes it. */
function isPlain(row: JsonObject, task: Task | null): boolean {
  let targets = 0;
  for (const name in row) {
    const value = row[name];
    if (inputFields.has(name)) continue;
    if (name === "id" && typeof value === "string" && value !== "") continue;
    if (!targetFields.has(name) || (task !== null && name !== targetField[task])) return false;
    if (name === "label" && typeof value !== "string") return false;
    if (name === "labels" && !(Array.isArray(value) && value.every((label) => typeof label === "string"))) return false;
    targets++;
  }
  return targets === 1;
}

function inferRecordTask(row: JsonObject): Task {
  if ("labels" in row) return "multi_label";
  if ("value" in row) return "regression";
  return Array.isArray(row.label) && row.label.length > 1 ? "multi_label" : "single_label";
}

function toLabels(target: unknown, task: Task, { labels_separator }: ReadOptions): unknown {
  if (isObject(target) && Array.isArray(target.choices)) return target.choices;
  const isList = typeof target === "string" && task === "multi_label" && labels_separator !== undefined;
  return isList ? splitLabels(target, labels_separator) : target;
}

/** Where the fields of rows are: by a name or a pointer. What no row had yet is looked for in the next. */
function createFieldColumns(options: ReadOptions, report: ReadReport) {
  const columns = new Map<Field, string>();
  const set = (field: Field, name: string) => {
    columns.set(field, name);
    const shown = { ...report.detected.columns, [field]: shortName(name) };
    report.detected = { ...report.detected, columns: shown };
  };
  const locate = (row: JsonObject, field: Field, given: string | undefined): Result<string | undefined> => {
    if (columns.has(field)) return ok(columns.get(field));
    if (given !== undefined) set(field, given);
    else if (Object.hasOwn(row, field)) set(field, field);
    else {
      const names = Object.keys(row).filter(
        (name) => name === "label" || !(inputFields.has(name) || targetFields.has(name)),
      );
      const found = findColumn(names, field);
      if (!found.ok) return found;
      if (found.value !== null) set(field, names[found.value] ?? field);
    }
    return ok(columns.get(field));
  };
  const get = (row: JsonObject, name: string | undefined): unknown => {
    if (name === undefined) return undefined;
    if (name.startsWith("/")) return jsonpointer.get(row, name);
    return Object.hasOwn(row, name) ? row[name] : undefined;
  };
  return {
    /** The values of a row's fields. Counts fields that are no part of it. */
    find(
      row: JsonObject,
      target: Field,
    ): Result<{ readonly id: unknown; readonly text: unknown; readonly target: unknown }> {
      const id = locate(row, "id", options.id);
      if (!id.ok) return id;
      const text = "embedding" in row ? ok(undefined) : locate(row, "text", options.text);
      if (!text.ok) return text;
      const targetName = locate(row, target, mappedTarget(options));
      if (!targetName.ok) return targetName;
      const used = [id.value, text.value, targetName.value].map((name) =>
        name?.startsWith("/") ? name.split("/")[1]?.replaceAll("~1", "/").replaceAll("~0", "~") : name,
      );
      for (const name of Object.keys(row))
        if (!used.includes(name) && name !== "embedding" && name !== "image") report.ignore(shortName(name));
      return ok({ id: get(row, id.value), text: get(row, text.value), target: get(row, targetName.value) });
    },
    addPlain(row: JsonObject) {
      for (const name in row)
        if (!columns.has(name as Field) && name !== "embedding" && name !== "image") set(name as Field, name);
    },
  };
}
