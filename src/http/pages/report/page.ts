/** A report on a version of a head: one page that needs nothing else, and runs nothing. */
import { html, raw } from "hono/html";
import type { Head } from "../../../api/heads.ts";
import type { DatasetIssue } from "../../../api/issues.ts";
import type { Recommendation } from "../../../api/recommendations.ts";
import { confusionSection } from "./confusion.ts";
import { learningSection, reliabilitySection, scopeSection } from "./curves.ts";
import { figuresSection, labelsSection } from "./figures.ts";
import type { Html } from "./format.ts";
import { issueSection } from "./issues.ts";
import { methodSection } from "./method.ts";
import { STYLE } from "./style.ts";
import { trainingSection } from "./training.ts";

export interface Report {
  readonly head: Head;
  /** Of the examples that the evaluation names, by id; those that were deleted are missing. null: they are left out. */
  readonly texts: ReadonlyMap<string, string> | null;
  /** The newest one for the dataset that the version was trained on; null without one. */
  readonly recommendation: Recommendation | null;
  /** The most likely issues of its dataset. */
  readonly issues: readonly DatasetIssue[];
}

/** What the page has, in its order. A part is null where it does not apply. */
const parts: readonly { readonly id: string; readonly name: string; readonly show: (report: Report) => Html | null }[] =
  [
    { id: "training", name: "Training", show: ({ head }) => trainingSection(head) },
    { id: "figures", name: "Figures", show: ({ head }) => figuresSection(head) },
    { id: "confusion", name: "Confusion", show: ({ head, texts }) => confusionSection(head, texts) },
    { id: "labels", name: "Labels", show: ({ head }) => labelsSection(head) },
    { id: "issues", name: "Issues of labels", show: ({ issues, texts }) => issueSection(issues, texts !== null) },
    { id: "reliability", name: "Reliability", show: ({ head }) => reliabilitySection(head) },
    { id: "learning", name: "Learning curve", show: ({ head }) => learningSection(head) },
    { id: "scope", name: "Scope", show: ({ head }) => scopeSection(head) },
    { id: "method", name: "Method", show: ({ recommendation }) => methodSection(recommendation) },
  ];

export function reportPage(report: Report): Html {
  const { id: name, version, active_version } = report.head;
  const shown = parts.map(({ show, ...part }) => ({ ...part, content: show(report) }));
  const present = shown.filter(({ content }) => content !== null);
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Report on ${name}, version ${version}</title>
<style>${raw(STYLE)}</style>
</head>
<body>
<header><h1>${name}, version ${version}</h1>
<p class="note">${version === active_version ? "This version answers predictions." : "Another version answers predictions, or none."}</p></header>
<nav aria-label="Parts of the report"><ul>${present.map((part) => html`<li><a href="#${part.id}">${part.name}</a></li>`)}</ul></nav>
<main>
${present.map(({ content }) => content)}
</main>
</body>
</html>
`;
}
