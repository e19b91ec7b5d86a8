/** How a file of examples is read, and what an import of it answers. */
import { z } from "@hono/zod-openapi";
import { dataset } from "./datasets.ts";
import { rowError } from "./examples.ts";
import type { DeepReadonly } from "./schema.ts";

export const fileFormats = ["csv", "ndjson", "json", "fasttext", "rasa"] as const;
export type FileFormat = (typeof fileFormats)[number];

export const delimiters = [",", ";", "\t", "|"] as const;
export type Delimiter = (typeof delimiters)[number];

/** Those of the WHATWG's Encoding Standard that tables are saved in. The first four are detected. */
export const encodings = [
  "utf-8",
  "utf-16le",
  "utf-16be",
  "windows-1252",
  "windows-1250",
  "windows-1251",
  "shift_jis",
  "gb18030",
  "big5",
  "euc-kr",
] as const;
export type Encoding = (typeof encodings)[number];

/** The media types that an import takes without a `format`. */
export const importTypes = [
  "application/json",
  "application/x-ndjson",
  "application/ndjson",
  "application/jsonl",
  "text/csv",
  "text/tab-separated-values",
  "application/yaml",
] as const;
export type ImportType = (typeof importTypes)[number];

const flag = z.enum(["true", "false"]).default("false");
const column = z.string().min(1).max(256).optional();
const columnMessage = "a column's name, its position from 1, or a JSON Pointer; without it, found by its usual names";

/** How a file is to be read. What is not given is detected. */
export const readOptions = z.strictObject({
  format: z
    .enum([...fileFormats, "tsv", "jsonl"])
    .optional()
    .openapi({ description: "detected without it" }),
  delimiter: z
    .enum([...delimiters, "comma", "semicolon", "tab", "pipe"])
    .optional()
    .openapi({ description: "of the columns of a CSV; detected without it" }),
  encoding: z.enum(encodings).optional().openapi({ description: "detected without it" }),
  text: column.openapi({ description: columnMessage }),
  label: column.openapi({ description: columnMessage }),
  labels: column.openapi({ description: columnMessage }),
  value: column.openapi({ description: columnMessage }),
  id: column.openapi({ description: columnMessage }),
  labels_separator: z.string().min(1).max(10).optional().openapi({
    description: "of several labels in one cell; '|' without it. After a backslash it is a part of a label",
  }),
  label_names: z
    .string()
    .min(1)
    .max(100_000)
    .optional()
    .openapi({ description: "what the labels 0, 1, 2 … are called, separated like labels" }),
  truncate: flag.openapi({ description: "texts beyond the limit are cut, not refused" }),
});
export type ReadOptions = DeepReadonly<Omit<z.output<typeof readOptions>, "truncate">> & { readonly truncate: boolean };

export const importQuery = readOptions.extend({
  on_error: z.enum(["continue", "abort"]).default("continue"),
  dry_run: flag.openapi({ description: "stores nothing, and answers what would happen, with a sample" }),
});
type QueryInput = DeepReadonly<z.input<typeof importQuery>>;
export type ImportQuery = Omit<QueryInput, "truncate" | "dry_run"> & {
  readonly [K in "truncate" | "dry_run"]?: boolean | QueryInput[K];
};

const columnName = z.union([z.string(), z.number().int()]);
/** What was found out about a file. */
const detected = z.object({
  format: z.enum(fileFormats),
  system: z.string().nullable().openapi({ description: "whose shape the rows have, such as label_studio" }),
  encoding: z.enum(encodings),
  delimiter: z.enum(delimiters).nullable().openapi({ description: "of a CSV" }),
  header: z.boolean().nullable().openapi({ description: "whether the first line of a CSV names its columns" }),
  columns: z.record(z.string(), columnName).openapi({
    description: "where text, label, labels, value and id were read: names, positions from 1 or JSON Pointers",
  }),
});
export type Detected = DeepReadonly<z.output<typeof detected>>;

const warningCodes = [
  "similar_labels",
  "conflicting_labels",
  "rare_label",
  "dominant_label",
  "short_inputs",
  "suspicious_encoding",
  "language_not_covered",
  "numeric_labels",
  "skipped_rows",
  "no_rows",
] as const;
const importWarning = z.object({
  code: z.enum(warningCodes),
  message: z.string(),
  count: z.number().int(),
  examples: z.array(z.string()).openapi({ description: "labels, words or inputs that it is about, at most five" }),
});
export type ImportWarning = DeepReadonly<z.output<typeof importWarning>>;

const sampleRow = z.object({
  line: z.number().int(),
  id: z.string().optional(),
  text: z.string().optional(),
  embedding: z.array(z.number()).optional(),
  label: z.string().optional(),
  labels: z.array(z.string()).optional(),
  value: z.number().optional(),
  truncated: z.literal(true).optional(),
});
export type SampleRow = DeepReadonly<z.output<typeof sampleRow>>;

/** What was read, whether or not it is stored. */
const importFigures = z.object({
  rejected: z.number().int(),
  /** The first hundred. */
  errors: z.array(rowError),
  detected,
  ignored_columns: z.array(z.string()).openapi({ description: "the names of at most a hundred" }),
  skipped: z.number().int().openapi({ description: "rows that the file itself marks as no example" }),
  trimmed: z.number().int().openapi({ description: "cells and labels with white space around them" }),
  truncated: z.number().int().openapi({ description: "texts that were cut" }),
  warnings: z.array(importWarning),
  sample: z.array(sampleRow).optional().openapi({ description: "of a dry run: the first twenty rows" }),
  labels: z
    .record(z.string(), z.number().int())
    .optional()
    .openapi({ description: "of a dry run: how many rows have each label" }),
});
export type ImportFigures = DeepReadonly<z.output<typeof importFigures>>;

export const datasetImport = z
  .object({
    object: z.literal("dataset.import"),
    id: z.string(),
    dry_run: z.literal(true).optional(),
    added: z.number().int(),
    updated: z.number().int(),
    unchanged: z.number().int(),
    ...importFigures.shape,
    dataset,
  })
  .openapi("DatasetImport");
export type DatasetImport = DeepReadonly<z.output<typeof datasetImport>>;
