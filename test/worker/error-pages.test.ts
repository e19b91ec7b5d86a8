/// <reference types="vite/types/importMeta.d.ts" />
import { Hono } from "hono";
import { expect, test } from "vitest";
import { errorCodes } from "../../src/core/failure.ts";
import type { HttpEnv } from "../../src/http/context.ts";
import { respondError } from "../../src/http/middleware/errors.ts";

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

test("no page is of a code that does not exist", () => {
  const names = Object.keys(pages).map((path) => path.replace(/^.*\/|\.md$/g, ""));
  expect(names.toSorted()).toEqual([...errorCodes, "README"].toSorted());
});
