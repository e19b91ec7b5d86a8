import { createRoute, z } from "@hono/zod-openapi";
import { headReportQuery, versionParams } from "../../api/heads.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respondError } from "../middleware/errors.ts";
import { reportPage } from "../pages/report/page.ts";
import { addRoute, errorResponses, tenantSecurity } from "../route.ts";

/** The page shows texts of others: it runs nothing, loads nothing and sends nothing. */
const PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'";

const reportRoute = createRoute({
  tags: ["Heads"],
  security: tenantSecurity,
  method: "get",
  path: "/v1/heads/{name}/versions/{version}/report",
  operationId: "getHeadReport",
  summary: "Read a report on a version",
  description:
    "One page of HTML that needs nothing else and runs no script: what the version was trained on, its figures in words, plots with tables, and examples of what it confuses.",
  middleware: [tenantAuth("train")] as const,
  request: { params: versionParams, query: headReportQuery },
  responses: {
    200: { description: "The page", content: { "text/html": { schema: z.string() } } },
    ...errorResponses,
  },
});

export function headReportRoutes(app: App): void {
  addRoute(app, reportRoute, async (c) => {
    const { name, version } = c.req.valid("param");
    const report = await c.var.ledger().readReport(name, version, c.req.valid("query").texts === "true");
    if (!report.ok) return respondError(c, report.failure);
    c.header("content-security-policy", PAGE_POLICY);
    return c.html(reportPage(report.value));
  });
}
