/** Reads a line of fastText: labels, each after a prefix, and the text. */
import type { Annotation } from "./annotation.ts";

const LABEL_PREFIX = "__label__";

export function readFastText(line: string): Annotation {
  const words = line.trim().split(/\s+/);
  const labels = words.filter((word) => word.startsWith(LABEL_PREFIX)).map((word) => word.slice(LABEL_PREFIX.length));
  // Labels may also stand at the end.
  const text = line.replace(/(^|\s)__label__\S*/g, " ").trim();
  return { text, labels };
}
