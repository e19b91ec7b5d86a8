/** Passes one request on to the runtime, and its answer back, both as streams. */
import { Agent, type IncomingMessage, type ServerResponse, request as sendRequest } from "node:http";
import { discardBody, requestTimeout, runtimeFailure, runtimeRestarting, sendError } from "./errors.ts";
import { responseHeaders } from "./headers.ts";
import type { Pace } from "./pace.ts";

/** Connections to the runtime on a Unix socket. They close before the runtime closes them, which it does after 5 s. */
export function makeAgent(): Agent {
  return new Agent({ keepAlive: true, maxFreeSockets: 256, scheduling: "lifo", timeout: 3_000 });
}

/** Where a request goes. */
export interface Upstream {
  readonly agent: Agent;
  readonly socketPath: string;
  readonly path: string;
  /** Name and value in turn. */
  readonly headers: readonly string[];
}

export function forward(request: IncomingMessage, response: ServerResponse, upstream: Upstream, pace: Pace): void {
  const { agent, socketPath, path, headers } = upstream;
  const hasBody = request.headers["transfer-encoding"] !== undefined || Number(request.headers["content-length"]) > 0;
  const attempt = (isRetry: boolean) => {
    const outgoing = sendRequest({ agent, socketPath, path, method: request.method ?? "GET", headers: [...headers] });
    const abort = () => outgoing.destroy();
    outgoing.once("response", (answer) => respond(request, response, answer));
    outgoing.on("error", () => {
      if (response.destroyed) return;
      if (response.headersSent) return void response.destroy();
      response.off("close", abort);
      // A connection that was kept open may have ended just as the request went out.
      const isRepeatable = !isRetry && outgoing.reusedSocket && (request.method === "GET" || request.method === "HEAD");
      if (isRepeatable && !hasBody) attempt(true);
      else sendError(request, response, runtimeRestarting);
    });
    // The runtime learns that the client has gone, and stops its work.
    response.once("close", abort);
    if (!hasBody) return void outgoing.end();
    request.pipe(outgoing);
    // The runtime may answer by the headers alone, before the body's first bytes.
    setImmediate(() => request.readableDidRead || outgoing.flushHeaders());
  };
  attempt(false);
  pace.watch(request, response, () => {
    if (response.headersSent) return void request.socket.destroy();
    response.once("finish", () => request.socket.destroySoon());
    sendError(request, response, requestTimeout);
  });
}

function respond(request: IncomingMessage, response: ServerResponse, answer: IncomingMessage): void {
  if (response.headersSent || response.destroyed) return void answer.destroy();
  // The runtime's own answer to an exception, which is not for clients.
  if (answer.headers["mf-experimental-error-stack"] !== undefined) {
    answer.resume();
    sendError(request, response, runtimeFailure);
    return;
  }
  response.writeHead(answer.statusCode ?? 500, responseHeaders(answer));
  answer.pipe(response);
  // Without its end, the client must not take the answer for whole.
  answer.once("close", () => answer.complete || response.destroy());
  response.once("finish", () => discardBody(request));
}
