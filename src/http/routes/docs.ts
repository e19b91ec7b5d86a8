import type { Context } from "hono";
import type { App, HttpEnv } from "../context.ts";
import { type ApiDocument, buildDocument } from "../document.ts";

/** People type their keys into this page, so that it runs nothing but the viewer, and speaks to this server alone. */
const PAGE_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

const PAGE = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Graft API</title>
<link rel="stylesheet" href="/docs/viewer.css">
<div id="viewer" data-url="/openapi.json"></div>
<script src="/docs/viewer.js"></script>
</html>
`;

/** Without a validator, since the usual one is another server. */
const START_VIEWER = `SwaggerUIBundle({
  domNode: viewer, url: viewer.dataset.url, deepLinking: true, docExpansion: "none", validatorUrl: null,
});`;

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
  let document: ApiDocument | undefined;
  app.get("/openapi.json", (c) => {
    document ??= buildDocument(app);
    c.header("cache-control", "no-cache");
    return c.json({ ...document, servers: [{ url: new URL(c.req.url).origin }] });
  });
  app.get("/docs", (c) => {
    c.header("content-security-policy", PAGE_POLICY);
    c.header("cache-control", "no-cache");
    return c.html(PAGE);
  });
  // The viewer's modules are bytes, because the isolate would hold its text in twice as many.
  app.get("/docs/viewer.js", async (c) => {
    const { default: viewer } = await import("swagger-ui-dist/swagger-ui-bundle.js");
    return respondAsset(c, [viewer, `\n${START_VIEWER}\n`], "text/javascript");
  });
  app.get("/docs/viewer.css", async (c) => {
    const { default: style } = await import("swagger-ui-dist/swagger-ui.css");
    return respondAsset(c, [style], "text/css");
  });
}

function respondAsset(c: Context<HttpEnv>, parts: (ArrayBuffer | string)[], type: string): Response {
  c.header("cache-control", "no-cache");
  c.header("content-type", `${type}; charset=utf-8`);
  return c.body(new Blob(parts).stream());
}
