/** What is probably wrong with the examples of the dataset: the most likely issues. */
import { html } from "hono/html";
import type { DatasetIssue } from "../../../api/issues.ts";
import { type Html, ownText, section } from "./format.ts";

/** Characters of a text. What is longer is cut. */
const MAX_TEXT = 500;

/** null where no issues are stored, or none are open. */
export function issueSection(issues: readonly DatasetIssue[], withTexts: boolean): Html | null {
  if (issues.length === 0) return null;
  return section(
    "issues",
    "Issues of labels",
    html`<p>What is most likely wrong with the dataset's examples, as they are now. <code>GET /v1/datasets/\u2026/issues</code> lists all of it.</p>
<ol class="pairs">${issues.map(
      ({
        example,
        reason,
      }) => html`<li><p>${ownText(reason)}</p>${withTexts && example.text !== undefined && html`<blockquote dir="auto">${cut(example.text)}</blockquote>`}</li>
`,
    )}</ol>`,
  );
}

function cut(text: string): string {
  return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT).toWellFormed()}…` : text;
}
