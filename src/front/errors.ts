/** What the front answers itself, in the API's shape. */
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import type { ErrorCode } from "../core/failure.ts";
import { newId } from "../lib/id.ts";
import { isValidHost } from "./routes.ts";

export interface FrontError {
  readonly status: number;
  readonly type: string;
  readonly code: ErrorCode;
  readonly message: string;
  /** In seconds. */
  readonly retryAfter?: number;
  /** The methods that are served. */
  readonly allow?: string;
}

export function routeNotFound(method: string, path: string): FrontError {
  return {
    status: 404,
    type: "not_found_error",
    code: "not_found",
    message: `There is nothing at ${method} ${path}. All routes are in /openapi.json and at /docs.`,
  };
}

export function methodNotAllowed(method: string, path: string, allow: string): FrontError {
  const message = `${path} does not take ${method}.`;
  return { status: 405, type: "invalid_request_error", code: "method_not_allowed", message, allow };
}

export function malformedRequest(message: string): FrontError {
  return { status: 400, type: "invalid_request_error", code: "malformed_request", message };
}

export const requestTimeout: FrontError = {
  status: 408,
  type: "invalid_request_error",
  code: "request_timeout",
  message: "The request arrived too slowly. Send it again, over a faster connection or in smaller parts.",
};

export const runtimeRestarting: FrontError = {
  status: 503,
  type: "capacity_error",
  code: "capacity_exceeded",
  message: "The server is restarting. Try again in a few seconds.",
  retryAfter: 2,
};

export const runtimeFailure: FrontError = {
  status: 500,
  type: "server_error",
  code: "internal_error",
  message: "Something went wrong on our side. Try again; if it lasts, tell us the request id.",
  retryAfter: 5,
};

export const storageFull: FrontError = {
  status: 507,
  type: "capacity_error",
  code: "storage_full",
  message: "The server's storage is full, so nothing can be added. Reading, predicting and deleting go on.",
  retryAfter: 60,
};

/** After an answer that came before the end of its request's body, the rest is read and discarded within these bounds. */
const LINGER_MS = 5_000;
const LINGER_BYTES = 8 * 2 ** 20;

/**
 * Discards the rest of a request's body. Closing the connection at once could lose the answer on its way to a client
 * that is still sending.
 */
export function discardBody(request: IncomingMessage): void {
  if (request.complete) return;
  const { socket } = request;
  const bytesBefore = socket.bytesRead;
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  request.on("data", () => socket.bytesRead - bytesBefore > LINGER_BYTES && socket.destroy());
  request.once("close", () => clearTimeout(timer));
  request.resume();
}

function toHeaders(error: FrontError, requestId: string, body: string): Record<string, string> {
  const { status, retryAfter, allow } = error;
  const isFinal = status < 500 && error !== requestTimeout;
  return {
    "content-type": "application/json",
    "content-length": String(Buffer.byteLength(body)),
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "x-request-id": requestId,
    ...(retryAfter === undefined ? {} : { "retry-after": String(retryAfter) }),
    ...(allow === undefined ? {} : { allow }),
    ...(isFinal ? { "x-should-retry": "false" } : {}),
  };
}

function toBody({ message, type, code }: FrontError, requestId: string, origin: string): string {
  const docUrl = `${origin}/docs/errors/${code}`;
  return JSON.stringify({ error: { message, type, code, param: null, request_id: requestId, doc_url: docUrl } });
}

/** The origin by which a client has reached this server, as the client or its proxy says; empty if neither does. */
function getOrigin({ headers, socket }: IncomingMessage): string {
  if (!isValidHost(headers.host)) return "";
  const isSecure = "encrypted" in socket || headers["x-forwarded-proto"] === "https";
  return `${isSecure ? "https" : "http"}://${headers.host}`;
}

export function sendError(request: IncomingMessage, response: ServerResponse, error: FrontError): void {
  const requestId = newId("req_");
  const body = toBody(error, requestId, getOrigin(request));
  response.writeHead(error.status, toHeaders(error, requestId, body));
  response.end(request.method === "HEAD" ? undefined : body);
  discardBody(request);
}

/** A whole HTTP answer, for a connection that is closed after it. */
export function formatErrorResponse(error: FrontError): string {
  const requestId = newId("req_");
  const body = toBody(error, requestId, "");
  const headers = Object.entries({ ...toHeaders(error, requestId, body), connection: "close" });
  const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`).join("");
  return `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}\r\n${lines}\r\n${body}`;
}
