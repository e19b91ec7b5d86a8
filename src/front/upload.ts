import { Agent, type IncomingMessage, type ServerResponse, request as sendRequest } from "node:http";
import { breakOff, startAnswer } from "./answer.ts";

/**
 * A connection for each upload. It asks to be kept open, although it is not used again: told to close, the runtime would
 * hang up as soon as it has refused an upload, and take its answer along.
 */
const agent = new Agent({ keepAlive: true, maxFreeSockets: 0 });

/**
 * Passes a request with a large body, or one of unknown length, on to the runtime as a stream. By node:http, since
 * undici sends no headers before the body's first bytes, and the runtime may refuse a request by its headers alone.
 */
export function upload(
  request: IncomingMessage,
  response: ServerResponse,
  { socketPath, path, headers }: { socketPath: string; path: string; headers: readonly string[] },
): void {
  const encoding = request.headers["transfer-encoding"] === undefined ? [] : ["transfer-encoding", "chunked"];
  const method = request.method ?? "POST";
  const outgoing = sendRequest({ agent, socketPath, path, method, headers: [...headers, ...encoding] });
  outgoing.once("response", (answer) => {
    if (!startAnswer(request, response, answer.statusCode ?? 500, answer.headers)) return void answer.destroy();
    answer.pipe(response);
    answer.once("close", () => answer.complete || breakOff(request, response));
  });
  outgoing.on("error", () => breakOff(request, response));
  // The runtime learns that the client has gone, and stops its work.
  response.once("close", () => outgoing.destroy());
  request.pipe(outgoing);
  outgoing.flushHeaders();
}
