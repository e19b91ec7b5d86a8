/** The pages on the error codes, docs/errors, as HTML for browsers and as text for everything else. */
import { createHash } from "node:crypto";
import type { Context } from "hono";
import { accepts } from "hono/accepts";
import { marked } from "marked";
import type { ErrorCode } from "../../core/failure.ts";
import type { App, HttpEnv } from "../context.ts";
import { errorOverview, errorTexts } from "../pages/error-texts.ts";

const STYLE =
  "body{max-width:46rem;margin:3rem auto;padding:0 1rem;font:1rem/1.6 system-ui,sans-serif;color:#1a1a1a;background:#fff}" +
  "pre{padding:1rem;overflow:auto;background:#f4f4f4}code{font-size:.9em}table{border-collapse:collapse}" +
  "th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}" +
  "@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#161616}pre{background:#262626}a{color:#8ab4f8}}";
const STYLE_HASH = createHash("sha256").update(STYLE).digest("base64");

export function errorPageRoutes(app: App): void {
  app.get("/docs/errors", (c) => respondPage(c, errorOverview));
  // One route: with one a page the router takes 7 ms more before an isolate answers its first request.
  app.get("/docs/errors/:page", (c) => {
    const page = c.req.param("page");
    const code = page.replace(/\.md$/, "");
    if (!isErrorCode(code)) return c.notFound();
    return page === code ? respondPage(c, errorTexts[code]) : respondText(c, errorTexts[code]);
  });
}

function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(errorTexts, code);
}

function respondPage(c: Context<HttpEnv>, markdown: string): Response {
  c.header("vary", "accept");
  const type = accepts(c, { header: "Accept", supports: ["text/html", "text/plain"], default: "text/plain" });
  if (type === "text/plain") return respondText(c, markdown);
  c.header("cache-control", "no-cache");
  c.header("content-security-policy", `default-src 'none'; style-src 'sha256-${STYLE_HASH}'; frame-ancestors 'none'`);
  return c.html(toHtml(markdown));
}

function respondText(c: Context<HttpEnv>, markdown: string): Response {
  c.header("cache-control", "no-cache");
  return c.text(markdown);
}

function toHtml(markdown: string): string {
  const title = /^# (.+)$/m.exec(markdown)?.[1] ?? "";
  // Pages link to each other by the names of their files; only these are served.
  const body = marked
    .parse(markdown, { async: false })
    .replace(/<a href="(\w+)\.md">/g, '<a href="/docs/errors/$1">')
    .replace(/<a href="\.\.\/[^"]*">(.*?)<\/a>/g, "$1");
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${title} – Graft</title>
<style>${STYLE}</style>
${body}</html>
`;
}
