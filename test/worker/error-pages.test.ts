/// <reference types="vite/types/importMeta.d.ts" />
import { Hono } from "hono";
import { expect, test } from "vitest";
import { codes } from "../../src/core/failure.ts";
import type { HttpEnv } from "../../src/http/context.ts";
import { failed } from "../../src/http/middleware/errors.ts";

const pages = import.meta.glob<string>("../../docs/errors/*.md", { query: "?raw", import: "default", eager: true });
const page = (name: string) => pages[`../../docs/errors/${name}.md`] ?? "";

test.each(codes)("%s has a page, which tells its status and type", async (code) => {
  const app = new Hono<HttpEnv>().get("/", (c) => failed(c, { code, message: "what was wrong" }));
  const response = await app.request("/");
  const { error } = await response.json<{ error: { type: string; code: string } }>();
  expect(page(code)).toContain(`# ${code}\n\nStatus ${response.status} · type \`${error.type}\``);
  expect(page("README")).toContain(`| [${code}](${code}.md) | ${response.status} | \`${error.type}\` |`);
  expect(response.headers.get("www-authenticate")).toBe(response.status === 401 ? "Bearer" : null);
});

test("no page is of a code that does not exist", () => {
  const names = Object.keys(pages).map((path) => path.replace(/^.*\/|\.md$/g, ""));
  expect(names.toSorted()).toEqual([...codes, "README"].toSorted());
});
