/** Which requests reach the Worker: the runtime beneath it has routes of its own, which give away what is stored. */

/** The Worker's routes: each path, and everything below it. */
export const workerRoutes: readonly string[] = ["/v1", "/health", "/internal/batch", "/openapi.json", "/docs"];

/** The methods that the Worker has routes for; of a path, the Worker knows which. */
export const methods: readonly string[] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/** The name or address of a host and its port. Anything else could change the path when a URL is made of both. */
const HOST = /^(?:[a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::\d{1,5})?$/i;

export function isValidHost(host: string | undefined): host is string {
  return host !== undefined && HOST.test(host);
}

/** The path and query of a request's target as the Worker will read them, without dot segments; null if it has none. */
export function parseTarget(target: string): URL | null {
  if (!target.startsWith("/")) return null;
  return URL.parse(`http://front${target}`);
}

export function isRoute(routes: readonly string[], pathname: string): boolean {
  return routes.some((route) => pathname === route || pathname.startsWith(`${route}/`));
}

/**
 * Whether a request adds to what is stored. A deletion does not: it is what frees space, and the space that is kept
 * free is enough to write it down.
 */
export function isWrite(method: string, pathname: string): boolean {
  if (method === "GET" || method === "HEAD" || method === "OPTIONS" || method === "DELETE") return false;
  return !/^\/v1\/(?:embeddings|predict|heads\/[^/]+\/predict)\/?$/.test(pathname);
}
