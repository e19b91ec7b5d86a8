/**
 * The shapes in which labelling tools write an example of a text classification. docs/importing.md shows each. A row of no
 * such shape is read by its field names (records.ts), as doccano's and Hugging Face's are.
 */
import { fail, ok, type Result } from "../core/failure.ts";
import type { Annotation } from "./annotation.ts";
import { readChat } from "./chats.ts";
import { findColumn } from "./columns.ts";

export type JsonObject = Readonly<Record<string, unknown>>;

/** The example; why there is none in the row; or what is wrong with it. */
export type SystemRow = Result<Annotation> | { readonly skipped: string };

export interface System {
  readonly name: string;
  matches(row: JsonObject): boolean;
  read(row: JsonObject): SystemRow;
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const asList = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);
const objectsIn = (value: unknown): JsonObject[] => asList(value).filter(isObject);

const openAi: System = { name: "openai_chat", matches: (row) => "messages" in row, read: readChat };

/** `cats` has a score for each label. */
const spaCy: System = {
  name: "spacy",
  matches: (row) => isObject(row.cats),
  read: ({ text, id, cats }) => ok({ id, text, labels: positiveCategories(cats) }),
};

function positiveCategories(cats: unknown): string[] {
  const scores = Object.entries(isObject(cats) ? cats : {});
  return scores.filter(([, score]) => score === true || Number(score) >= 0.5).map(([label]) => label);
}

/** A question with a label of its own, or a choice (`accept`) among options. */
const prodigy: System = {
  name: "prodigy",
  matches: (row) => typeof row.answer === "string" && ("label" in row || "accept" in row || "options" in row),
  read({ text, label, accept, answer }) {
    if (answer !== "accept") return { skipped: `the annotator's answer is '${String(answer).slice(0, 20)}'` };
    return ok({ text, labels: accept ?? label });
  },
};

/** A task has the text in `data`, and the choices of each annotator in `annotations`. The first annotator's count. */
const labelStudio: System = {
  name: "label_studio",
  matches: (row) => isObject(row.data) && (Array.isArray(row.annotations) || Array.isArray(row.completions)),
  read({ id, data, annotations, completions }) {
    const texts = Object.entries(isObject(data) ? data : {}).filter(([, value]) => typeof value === "string");
    const names = texts.map(([name]) => name);
    const column = findColumn(names, "text");
    if (!column.ok) return column;
    const index = column.value ?? (texts.length === 1 ? 0 : null);
    if (index === null) {
      const message = "The task's 'data' has no text. Say where it is, such as ?text=/data/body.";
      return fail("missing_parameter", message, { param: "data.text" });
    }
    const annotation = objectsIn(annotations ?? completions).find((one) => one.was_cancelled !== true);
    if (annotation === undefined) return { skipped: "the task has no annotation" };
    const labels = objectsIn(annotation.result).flatMap(({ value }) => (isObject(value) ? asList(value.choices) : []));
    return labels.length > 0
      ? ok({ id, text: texts[index]?.[1], labels })
      : { skipped: "the annotation has no choice" };
  },
};

/** A line of a Vertex AI dataset. */
const vertex: System = {
  name: "vertex",
  matches: (row) => "textContent" in row,
  read({ textContent, classificationAnnotation, classificationAnnotations }) {
    const annotations = objectsIn(classificationAnnotations ?? [classificationAnnotation]);
    const labels = annotations.map(({ displayName }) => displayName);
    return labels.length > 0 ? ok({ text: textContent, labels }) : { skipped: "the row has no annotation" };
  },
};

const systems = [openAi, spaCy, prodigy, labelStudio, vertex];

/** The tool that writes rows of this shape; null if it is none of those known. */
export function findSystem(row: JsonObject): System | null {
  return systems.find(({ matches }) => matches(row)) ?? null;
}

/** spaCy's training data of version 2: pairs of a text and its annotations. */
export function readPair(row: unknown): JsonObject | null {
  if (!Array.isArray(row) || row.length !== 2 || typeof row[0] !== "string" || !isObject(row[1])) return null;
  return isObject(row[1].cats) ? { text: row[0], cats: row[1].cats } : null;
}

/** A whole document of JSON in which a tool writes its examples, and the names of its labels if those are numbers. */
export interface Project {
  readonly system: string;
  readonly rows: readonly JsonObject[];
  readonly labelNames: readonly string[] | null;
}

/** The examples of a project of LUIS, Azure's language service, Dialogflow, Rasa or Hugging Face; null if it is none. */
export function readProject(document: unknown): Project | null {
  if (!isObject(document)) return null;
  const project = (system: string, rows: unknown, labelNames: readonly string[] | null = null) =>
    Array.isArray(rows) ? { system, rows: objectsIn(rows), labelNames } : null;
  const { utterances, assets, rasa_nlu_data, intents, features, rows } = document;
  if (Array.isArray(utterances)) return project("luis", utterances);
  if (isObject(assets)) return project("azure_language", assets.utterances ?? assets.documents);
  if (isObject(rasa_nlu_data)) return project("rasa", rasa_nlu_data.common_examples);
  if (Array.isArray(features))
    return project(
      "huggingface",
      objectsIn(rows).map(({ row }) => row),
      classNames(features),
    );
  const list = Array.isArray(intents) ? objectsIn(intents) : [document];
  return list.some(isIntent) ? project("dialogflow", list.flatMap(readIntent)) : null;
}

/** Hugging Face's `ClassLabel`: the names of integer labels, in their order. */
function classNames(features: readonly unknown[]): readonly string[] | null {
  const types = objectsIn(features).map(({ type }) =>
    isObject(type) ? (isObject(type.feature) ? type.feature : type) : {},
  );
  const names = types.find(({ _type }) => _type === "ClassLabel")?.names;
  return Array.isArray(names) ? names.map(String) : null;
}

const isIntent = (value: JsonObject) => Array.isArray(value.trainingPhrases) || Array.isArray(value.userSays);

/** The training phrases of a Dialogflow intent, each in parts. */
function readIntent({ displayName, name, trainingPhrases, userSays }: JsonObject): JsonObject[] {
  return objectsIn(trainingPhrases ?? userSays).map(({ parts, data }) => ({
    text: objectsIn(parts ?? data)
      .map(({ text }) => (typeof text === "string" ? text : ""))
      .join(""),
    label: displayName ?? name,
  }));
}
