/** Passes one request on to the runtime, and its answer back. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { type Dispatcher, Pool } from "undici";
import { breakOff, startAnswer } from "./answer.ts";
import { requestTimeout, sendError } from "./errors.ts";
import type { Pace } from "./pace.ts";
import { upload } from "./upload.ts";

/** Bodies of at most so many bytes are sent whole, by undici: that costs half of what a stream does. */
const SMALL_BODY_BYTES = 65_536;

/** Connections to the runtime on a Unix socket. They close before the runtime closes them, which it does after 5 s. */
export function connectToRuntime(socketPath: string): Pool {
  const keepAlive = { keepAliveTimeout: 3_000, keepAliveMaxTimeout: 3_000 };
  return new Pool("http://runtime", { socketPath, ...keepAlive, headersTimeout: 0, bodyTimeout: 0 });
}

/** Where a request goes. */
export interface Upstream {
  readonly runtime: Pool;
  readonly socketPath: string;
  readonly path: string;
  /** Name and value in turn. */
  readonly headers: string[];
}

export function forward(request: IncomingMessage, response: ServerResponse, upstream: Upstream, pace: Pace): void {
  pace.watch(request, response, () => {
    if (response.headersSent) {
      request.socket.destroy();
      return;
    }
    response.once("finish", () => request.socket.destroySoon());
    sendError(request, response, requestTimeout);
  });
  const isChunked = request.headers["transfer-encoding"] !== undefined;
  const length = Number(request.headers["content-length"] ?? 0);
  if (isChunked || length > SMALL_BODY_BYTES) {
    upload(request, response, upstream);
  } else if (length === 0) {
    dispatch(request, response, upstream, null);
  } else {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.once("end", () => response.headersSent || dispatch(request, response, upstream, Buffer.concat(chunks)));
  }
}

function dispatch(
  request: IncomingMessage,
  response: ServerResponse,
  upstream: Upstream,
  body: Buffer | null,
  isRetry = false,
): void {
  const { runtime, path, headers } = upstream;
  const method = (request.method ?? "GET") as Dispatcher.HttpMethod;
  const isRepeatable = !isRetry && (method === "GET" || method === "HEAD");
  const handler: Dispatcher.DispatchHandler = {
    onRequestStart(controller) {
      // The runtime learns that the client has gone, and stops its work.
      const abort = () => controller.abort(new Error("The client has gone."));
      if (response.destroyed) return abort();
      response.once("close", abort);
      response.on("drain", () => controller.resume());
    },
    onResponseStart(controller, status, answerHeaders) {
      if (status < 200) return;
      if (!startAnswer(request, response, status, answerHeaders))
        controller.abort(new Error("The answer is not wanted."));
    },
    onResponseData(controller, chunk) {
      if (!response.write(chunk)) controller.pause();
    },
    onResponseEnd() {
      response.end();
    },
    onResponseError(_controller, error) {
      if (response.destroyed || response.writableEnded) return;
      // A connection that was kept open may have ended just as the request went out.
      const isClosed = ["UND_ERR_SOCKET", "ECONNRESET", "EPIPE"].includes((error as NodeJS.ErrnoException).code ?? "");
      if (isRepeatable && isClosed && !response.headersSent) dispatch(request, response, upstream, body, true);
      else breakOff(request, response);
    },
  };
  runtime.dispatch({ path, method, headers, body }, handler);
}
