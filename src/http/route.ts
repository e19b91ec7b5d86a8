/** How routes are declared: their request, their responses and who may call them. */
import { type RouteConfig, type RouteHandler, z } from "@hono/zod-openapi";
import { error } from "../api/errors.ts";
import type { App, HttpEnv } from "./context.ts";

export function jsonResponse<T extends z.ZodType>(schema: T, description: string) {
  return { description, content: { "application/json": { schema } } };
}

export function jsonBody<T extends z.ZodType>(schema: T) {
  return { content: { "application/json": { schema } }, required: true } as const;
}

/** Every route may answer with an error. docs/errors/ has its status and code. */
const errorResponse = jsonResponse(error, "An error, with a page on each code at /docs/errors");
export const errorResponses = { "4XX": errorResponse, default: errorResponse };
export const tenantSecurity = [{ apiKey: [] }];
export const operatorSecurity = [{ adminKey: [] }];

/** For routes that ignore unknown parameters in a query: those in OpenAI's shape, and health checks. */
export const anyQuery = z.looseObject({});

/** What the handler of a route gets, with the request checked by the route's schemas. */
export type RouteContext<R extends RouteConfig> = Parameters<RouteHandler<R, HttpEnv>>[0];

/** A generated client names its calls by `operationId`. */
type DescribedRoute = RouteConfig & {
  readonly operationId: string;
  readonly summary: string;
  readonly description: string;
  getRoutingPath(): string;
};

/**
 * Registers a route with its schemas. A route that declares no query takes none. A handler answers failures as well as
 * values, and a route's schemas describe only its good responses, so the handler's type is a plain response. The tests
 * check responses against /openapi.json.
 */
export function addRoute<R extends DescribedRoute>(
  app: App,
  config: R,
  handler: (c: RouteContext<R>) => Promise<Response> | Response,
): void {
  const request = { query: z.strictObject({}), ...config.request };
  app.openapi({ ...config, request }, handler as unknown as RouteHandler<R, HttpEnv>);
}
