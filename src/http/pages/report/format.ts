/** Numbers in words, and what every part of a report is made of. */
import { html } from "hono/html";

/** Markup. `html` escapes every value in it that is not markup itself. */
export type Html = ReturnType<typeof html>;

export type Interval = readonly [number, number];

/** A share as a percentage: 0.897 as "89.7 %". */
export function percent(share: number, digits = 1): string {
  return `${(100 * share).toFixed(digits)} %`;
}

export function percentInterval([low, high]: Interval): string {
  return `${(100 * low).toFixed(1)} to ${percent(high)}`;
}

/** A difference of shares, in percentage points. */
export function points(difference: number): string {
  return `${(100 * difference).toFixed(1)} points`;
}

export function count(value: number): string {
  return value.toLocaleString("en-US");
}

/** With its unit in the plural, unless there is one. */
export function counted(value: number, unit: string): string {
  return `${count(value)} ${unit}${value === 1 ? "" : "s"}`;
}

/** A number of any size with three digits. */
export function figure(value: number): string {
  return value === 0 || (Math.abs(value) >= 1e-6 && Math.abs(value) < 1e6)
    ? value.toLocaleString("en-US", { maximumSignificantDigits: 3, maximumFractionDigits: 9 })
    : value.toExponential(2);
}

/** A label or another text of the tenant's, which may be written from right to left. */
export function ownText(text: string): Html {
  return html`<bdi>${text}</bdi>`;
}

/** A part of the report under a heading. `id` is the heading's. */
export function section(id: string, heading: string, content: unknown): Html {
  return html`<section aria-labelledby="${id}"><h2 id="${id}">${heading}</h2>${content}</section>`;
}

/** What may be wider than the screen: a keyboard scrolls it as well. */
export function scrollable(name: string, content: unknown): Html {
  return html`<div class="wide" role="region" tabindex="0" aria-label="${name}">${content}</div>`;
}

/** A table of numbers whose first column names its rows. */
export function table(caption: string, columns: readonly string[], rows: readonly (readonly unknown[])[]): Html {
  return scrollable(
    caption,
    html`<table><caption>${caption}</caption>
<thead><tr>${columns.map((column) => html`<th scope="col">${column}</th>`)}</tr></thead>
<tbody>${rows.map(
      ([first, ...cells]) => html`<tr><th scope="row">${first}</th>${cells.map((cell) => html`<td>${cell}</td>`)}</tr>
`,
    )}</tbody></table>`,
  );
}
