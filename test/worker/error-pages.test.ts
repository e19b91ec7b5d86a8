/// <reference types="vite/types/importMeta.d.ts" />
import { Hono } from "hono";
import { expect, test } from "vitest";
import { errorCodes } from "../../src/core/failure.ts";
import type { HttpEnv } from "../../src/http/context.ts";
import { respondError } from "../../src/http/middleware/errors.ts";
import { call } from "./api.ts";
import { expectError } from "./assertions.ts";

const pages = import.meta.glob<string>("../../docs/errors/*.md", { query: "?raw", import: "default", eager: true });
const readPage = (name: string) => pages[`../../docs/errors/${name}.md`] ?? "";

test.each(errorCodes)("%s has a page, which tells its status and type", async (code) => {
  const app = new Hono<HttpEnv>().get("/", (c) => respondError(c, { code, message: "what was wrong" }));
  const response = await app.request("/");
  const { error } = await response.json<{ error: { type: string; code: string } }>();
  expect(readPage(code)).toContain(`# ${code}\n\nStatus ${response.status} · type \`${error.type}\``);
  expect(readPage("README")).toContain(`| [${code}](${code}.md) | ${response.status} | \`${error.type}\` |`);
  expect(response.headers.get("www-authenticate")).toBe(response.status === 401 ? "Bearer" : null);
});

test.each([...errorCodes, ""])("the Worker serves the page of '%s' as HTML and as text", async (code) => {
  const path = `/docs/errors${code && `/${code}`}`;
  const text = await call("GET", path);
  expect([text.status, text.headers.get("content-type")]).toEqual([200, "text/plain; charset=UTF-8"]);
  expect(text.text).toBe(readPage(code || "README"));
  const html = await call("GET", path, undefined, undefined, { accept: "text/html,application/xml;q=0.9,*/*;q=0.8" });
  expect([html.status, html.headers.get("content-type")]).toEqual([200, "text/html; charset=UTF-8"]);
  expect(html.text).toContain(`<h1>${code || "Errors"}</h1>`);
  const links = [...html.text.matchAll(/href="([^"]*)"/g)].map(([, link = ""]) => link);
  for (const link of links) expect(errorCodes.map((other) => `/docs/errors/${other}`)).toContain(link);
});

test("a page is also at the name of its file, and there is none of another code", async () => {
  expect((await call("GET", "/docs/errors/not_found.md")).text).toBe(readPage("not_found"));
  expectError(await call("GET", "/docs/errors/nothing"), 404, "not_found");
  expectError(await call("GET", "/docs/errors/toString"), 404, "not_found");
});

test("no page is of a code that does not exist", () => {
  const names = Object.keys(pages).map((path) => path.replace(/^.*\/|\.md$/g, ""));
  expect(names.toSorted()).toEqual([...errorCodes, "README"].toSorted());
});
