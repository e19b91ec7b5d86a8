/**
 * Reads the training data of Rasa (`nlu.yml`) as a stream: the items of its list one by one, each of bounded size, since
 * YAML must be whole to be parsed, and its tree is many times as large as its text.
 */
import { parse } from "yaml";
import { bodyError } from "./body.ts";
import type { Line } from "./lines.ts";
import { isObject, type JsonObject } from "./systems.ts";

const MAX_ITEM_CHARACTERS = 256 * 1024;
/** An item of the list, such as "- intent: greet". Its examples are indented further, or text after "|". */
const ITEM = /^(\s*)- (intent|synonym|regex|lookup)\s*:/;
const EXAMPLE = /^\s*-\s+(.*\S)\s*$/;
/** An entity in an example: "[Berlin](city)" or "[Berlin]{"entity": "city"}". */
const ENTITY = /\[([^\]]+)\](?:\([^)]*\)|\{[^}]*\})/g;

/** An example with its line, or why the intent on that line cannot be read. */
export type RasaRow =
  | { readonly line: number; readonly row: JsonObject }
  | { readonly line: number; readonly error: string };

interface Item {
  readonly line: number;
  readonly indent: string;
  text: string;
}

export async function* rasaRows(chunks: AsyncIterable<Iterable<Line>>): AsyncGenerator<Iterable<RasaRow>, void> {
  const readItem = createItemReader();
  let item: Item | null = null;
  let lineNumber = 0;
  function* readLines(lines: Iterable<Line>): Generator<RasaRow> {
    for (const { text, utf8 } of lines) {
      lineNumber++;
      if (text === null || !utf8) throw invalidYaml(lineNumber, text === null ? "is too long" : "is not UTF-8");
      const indent = ITEM.exec(text)?.[1];
      // What is not indented further ends the list, such as "rules:".
      const isOutside = item !== null && /^\s*[^\s#-]/.test(text) && indentOf(text) < item.indent.length + 1;
      if (indent !== undefined && (item === null || indent.length <= item.indent.length)) {
        if (item !== null) yield* readItem(item);
        item = { line: lineNumber, indent, text };
      } else if (isOutside && item !== null) {
        yield* readItem(item);
        item = null;
      } else if (item !== null) item.text += `\n${text}`;
      if (item !== null && item.text.length > MAX_ITEM_CHARACTERS)
        throw invalidYaml(
          item.line,
          `begins an intent of more than ${MAX_ITEM_CHARACTERS} characters; split it in two`,
        );
    }
  }
  for await (const lines of chunks) yield readLines(lines);
  if (item !== null) yield readItem(item);
}

const indentOf = (line: string) => line.length - line.trimStart().length;

function invalidYaml(line: number, what: string) {
  return bodyError("invalid_parameter", `Line ${line} of the YAML ${what}.`, { details: { line } });
}

function createItemReader(): (item: Item) => Generator<RasaRow> {
  /** No two examples have the same line, even if two stand on one. */
  let lastLine = 0;
  return function* readItem({ line, text }) {
    const parsed = parseItem(text);
    const item = Array.isArray(parsed) ? parsed[0] : undefined;
    if (!isObject(item)) return yield { line, error: `The intent on line ${line} is not valid YAML.` };
    const { intent, examples } = item;
    // Synonyms, regular expressions and look-up tables are no examples.
    if (intent === undefined) return;
    const lines = text.split("\n");
    for (const example of readExamples(examples)) {
      const index = lines.findIndex((each, i) => line + i > lastLine && each.includes(example));
      lastLine = Math.max(lastLine + 1, line + index);
      yield { line: lastLine, row: { text: example.replace(ENTITY, "$1"), label: intent } };
    }
  };
}

function parseItem(text: string): unknown {
  try {
    // Without aliases, a small text cannot become a large value.
    return parse(text, { maxAliasCount: 0, logLevel: "silent" });
  } catch {
    return undefined;
  }
}

/** Examples are lines of one text, each after a dash; or a list of texts, or of objects with a `text`. */
function readExamples(examples: unknown): string[] {
  const lines = typeof examples === "string" ? examples.split("\n") : [];
  const listed = Array.isArray(examples) ? examples.map((one) => (isObject(one) ? one.text : one)) : [];
  return [
    ...lines.flatMap((line) => EXAMPLE.exec(line)?.[1] ?? []),
    ...listed.filter((one) => typeof one === "string").map((one) => EXAMPLE.exec(one)?.[1] ?? one.trim()),
  ];
}
