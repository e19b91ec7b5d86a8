/** The runtime's answer on its way to the client. */
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http";
import { discardBody, runtimeFailure, runtimeRestarting, sendError } from "./errors.ts";
import { endToEndHeaders } from "./headers.ts";

/** Sends the head of an answer. False if the client has been answered otherwise, and the rest is not wanted. */
export function startAnswer(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  headers: IncomingHttpHeaders,
): boolean {
  if (response.headersSent || response.destroyed) return false;
  // The runtime's own answer to an exception, which is not for clients.
  if (headers["mf-experimental-error-stack"] !== undefined) {
    sendError(request, response, runtimeFailure);
    return false;
  }
  response.writeHead(status, endToEndHeaders(headers));
  response.once("finish", () => discardBody(request));
  return true;
}

/** Ends an answer whose rest will not come: without its end, the client does not take it for whole. */
export function breakOff(request: IncomingMessage, response: ServerResponse): void {
  if (response.destroyed || response.writableEnded) return;
  if (response.headersSent) response.destroy();
  else sendError(request, response, runtimeRestarting);
}
