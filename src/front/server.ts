/**
 * The front: the one HTTP server that clients of a server on this machine reach. It passes the Worker's own routes on to
 * the runtime, which listens on a Unix socket, and answers everything else itself.
 */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerOptions, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import {
  formatErrorResponse,
  malformedRequest,
  methodNotAllowed,
  requestTimeout,
  routeNotFound,
  sendError,
  storageFull,
} from "./errors.ts";
import { connectToRuntime, forward } from "./forward.ts";
import { readClient, requestHeaders } from "./headers.ts";
import { Pace, type PaceLimits } from "./pace.ts";
import { isRoute, isValidHost, isWrite, methods, parseTarget } from "./routes.ts";

export interface FrontLimits extends PaceLimits {
  /** Until a request's headers have arrived. */
  readonly headersMs: number;
  readonly headerBytes: number;
  /** How long a connection may stay open without a request. */
  readonly idleMs: number;
  readonly connections: number;
}

const defaultLimits: FrontLimits = {
  headersMs: 10_000,
  headerBytes: 16_384,
  idleMs: 65_000,
  connections: 4_096,
  graceMs: 30_000,
  bytesPerSecond: 1_024,
};

/** How long `close` waits for requests that are being answered. */
const CLOSE_MS = 5_000;

export interface FrontOptions {
  readonly host: string;
  /** 0 for any free port. */
  readonly port: number;
  /** Files of a certificate chain and its key, in PEM. */
  readonly tls?: { readonly cert: string; readonly key: string } | undefined;
  /** The runtime's Unix socket. */
  readonly socketPath: string;
  readonly routes: readonly string[];
  /** How many proxies stand in front of this server. */
  readonly trustedProxies: number;
  readonly isStorageFull: () => boolean;
  readonly limits?: Partial<FrontLimits>;
}

export interface Front {
  readonly port: number;
  readonly close: () => Promise<void>;
}

/** Starts the front. Rejects if nothing can listen there. */
export async function startFront(options: FrontOptions): Promise<Front> {
  const limits = { ...defaultLimits, ...options.limits };
  const runtime = connectToRuntime(options.socketPath);
  const pace = new Pace(limits);
  const server = createHttpServer(options.tls, {
    maxHeaderSize: limits.headerBytes,
    headersTimeout: limits.headersMs,
    // Bodies may take as long as they arrive at a fair pace.
    requestTimeout: 0,
    keepAliveTimeout: limits.idleMs,
    connectionsCheckingInterval: Math.min(1_000, limits.headersMs),
    requireHostHeader: false,
    noDelay: true,
  });
  server.maxConnections = limits.connections;
  server.on("request", (request, response) => {
    const { method = "", url: target = "", headers } = request;
    if (!isValidHost(headers.host))
      return sendError(request, response, malformedRequest("The header 'Host' is missing or is no name of a host."));
    if ((headers["transfer-encoding"] ?? "chunked").toLowerCase() !== "chunked")
      return sendError(request, response, malformedRequest("The only Transfer-Encoding that is read is 'chunked'."));
    if (headers.upgrade?.toLowerCase().includes("websocket"))
      return sendError(request, response, malformedRequest("There are no WebSockets here. Send plain HTTP requests."));
    const url = parseTarget(target);
    if (url === null || !isRoute(options.routes, url.pathname))
      return sendError(request, response, routeNotFound(method, url?.pathname ?? target));
    if (!methods.includes(method))
      return sendError(request, response, methodNotAllowed(method, url.pathname, methods.join(", ")));
    if (options.isStorageFull()) {
      if (url.pathname === "/health/ready") return sendUnready(request, response);
      if (isWrite(method, url.pathname)) return sendError(request, response, storageFull);
    }
    const path = url.pathname + url.search;
    const client = readClient(request, options.trustedProxies);
    const upstream = {
      runtime,
      socketPath: options.socketPath,
      path,
      headers: requestHeaders(request, headers.host, path, client),
    };
    forward(request, response, upstream, pace);
  });
  refuseOtherProtocols(server);
  server.listen(options.port, options.host);
  await once(server, "listening");
  const close = async () => {
    const closed = once(server, "close");
    server.close();
    server.closeIdleConnections();
    const timer = setTimeout(() => server.closeAllConnections(), CLOSE_MS);
    await closed;
    clearTimeout(timer);
    pace.stop();
    await runtime.destroy();
  };
  return { port: (server.address() as AddressInfo).port, close };
}

function createHttpServer(tls: FrontOptions["tls"], options: ServerOptions): Server {
  if (tls === undefined) return createServer(options);
  return createTlsServer({ ...options, cert: readFileSync(tls.cert), key: readFileSync(tls.key) });
}

function sendUnready(request: IncomingMessage, response: ServerResponse): void {
  const body = JSON.stringify({ status: "unavailable", reason: "storage_full" });
  response.writeHead(503, {
    "content-type": "application/json",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
  });
  response.end(request.method === "HEAD" ? undefined : body);
}

/** Answers what is no HTTP request for this server, and closes its connection. */
function refuseOtherProtocols(server: Server): void {
  server.on("connect", (_request, socket) => {
    socket.on("error", () => undefined);
    socket.end(formatErrorResponse(malformedRequest("This server is no proxy: CONNECT is refused.")));
  });
  server.on("checkExpectation", (request, response) => server.emit("request", request, response));
  server.on("clientError", (error: NodeJS.ErrnoException, socket: Socket) => {
    if (!socket.writable || error.code === "ECONNRESET") return void socket.destroy();
    const answer = {
      ERR_HTTP_REQUEST_TIMEOUT: requestTimeout,
      HPE_HEADER_OVERFLOW: malformedRequest("The request's headers are too large. Send fewer or shorter ones."),
    }[error.code ?? ""];
    socket.end(formatErrorResponse(answer ?? malformedRequest("This is not an HTTP/1.1 request.")));
    socket.destroySoon();
  });
}
