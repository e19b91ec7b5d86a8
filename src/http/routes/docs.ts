import { createHash } from "node:crypto";
import { Scalar } from "@scalar/hono-api-reference";
import { createMiddleware } from "hono/factory";
import type { App, HttpEnv } from "../context.ts";

const description = `Train, evaluate, calibrate and serve small classifiers (heads) on frozen embeddings, one set for each of your customers.
Every error has a code from a closed list, with a page on each in docs/errors/.`;

/** Pinned to a version, because people type their keys into this page. */
const VIEWER_URL = "https://cdn.jsdelivr.net/npm/@scalar/api-reference@1.72.1";

const INLINE_SCRIPT = /<script(?![^>]*\bsrc=)[^>]*>([\s\S]*?)<\/script>/g;

/** What the viewer's page may load: the viewer and its font, and scripts of its own by their hashes. */
function pagePolicy(html: string): string {
  const hashes = [...html.matchAll(INLINE_SCRIPT)].map(
    ([, script = ""]) => `'sha256-${createHash("sha256").update(script).digest("base64")}'`,
  );
  return [
    "default-src 'none'",
    `script-src ${VIEWER_URL} ${hashes.join(" ")}`,
    "style-src 'unsafe-inline'",
    "font-src https://fonts.scalar.com",
    "img-src 'self' data: blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; ");
}

/** The page holds nothing of a tenant, and may be stored. */
const publicPage = createMiddleware<HttpEnv>(async (c, next) => {
  await next();
  c.header("content-security-policy", pagePolicy(await c.res.clone().text()));
  c.header("cache-control", "no-cache");
});

/** The OpenAPI document, which is made of the routes' schemas, and a page to read it in. */
export function documentationRoutes(app: App): void {
  app.openAPIRegistry.registerComponent("securitySchemes", "apiKey", {
    type: "http",
    scheme: "bearer",
    description: "gk_<tenant>_<secret>",
  });
  app.openAPIRegistry.registerComponent("securitySchemes", "adminKey", {
    type: "http",
    scheme: "bearer",
    description: "the operator's ADMIN_KEY",
  });
  const buildDocument = () => {
    const document = app.getOpenAPI31Document({
      openapi: "3.1.0",
      info: {
        title: "Graft",
        version: "1",
        description,
        license: { name: "Apache-2.0", url: "https://www.apache.org/licenses/LICENSE-2.0" },
      },
    });
    // The import reads JSON as a stream, so its route declares no JSON body. The document has it all the same.
    const body = document.paths?.["/v1/datasets/{name}/examples"]?.post?.requestBody;
    if (body && "content" in body) {
      const examples = { type: "array" as const, items: { $ref: "#/components/schemas/LabelledExample" } };
      body.content["application/json"] = {
        schema: { type: "object", properties: { examples }, required: ["examples"], additionalProperties: false },
      };
    }
    return document;
  };
  let document: ReturnType<typeof buildDocument> | undefined;
  app.get("/openapi.json", (c) => {
    document ??= buildDocument();
    c.header("cache-control", "no-cache");
    return c.json({ ...document, servers: [{ url: new URL(c.req.url).origin }] });
  });
  app.get("/docs", publicPage, Scalar({ url: "/openapi.json", pageTitle: "Graft API", cdn: VIEWER_URL }));
}
