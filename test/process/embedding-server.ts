/** A real HTTP server on this machine that speaks OpenAI's embeddings protocol, and misbehaves when told to. */
import { createServer, type IncomingHttpHeaders, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface Call {
  readonly url: string | undefined;
  readonly headers: IncomingHttpHeaders;
  readonly body: { model: string; input: string[]; encoding_format?: string; dimensions?: number };
}

export type FaultyHandler = (response: ServerResponse, call: Call) => void;

export interface EmbeddingServer {
  readonly url: string;
  readonly calls: Call[];
  /** What the next calls meet, one each, in order of arrival; null and nothing left mean a right answer. */
  readonly script: (FaultyHandler | null)[];
  /** The most calls that were open at once. */
  maxOpenCalls: number;
  close(): Promise<void>;
}

/** The embedding this server gives: recognisable from the text, and exact in float32. */
export function embeddingOf(text: string): number[] {
  return [text.length, text.charCodeAt(0), 0.5, -0.25];
}

export function correctAnswer(call: Call): { object: string; data: { index: number; embedding: number[] | string }[] } {
  const data = call.body.input.map((text, index) => ({ index, embedding: encodeEmbedding(embeddingOf(text), call) }));
  return { object: "list", data };
}

function encodeEmbedding(values: number[], call: Call): number[] | string {
  return call.body.encoding_format === "base64"
    ? Buffer.from(Float32Array.from(values).buffer).toString("base64")
    : values;
}

export function respondJson(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));
}

export async function startEmbeddingServer(): Promise<EmbeddingServer> {
  const calls: Call[] = [];
  const script: (FaultyHandler | null)[] = [];
  let openCalls = 0;
  const server = createServer(async (request, response) => {
    openCalls++;
    handle.maxOpenCalls = Math.max(handle.maxOpenCalls, openCalls);
    response.on("close", () => openCalls--);
    let text = "";
    for await (const chunk of request) text += chunk;
    const call: Call = { url: request.url, headers: request.headers, body: JSON.parse(text) };
    calls.push(call);
    const handler = script.shift() ?? null;
    if (handler) handler(response, call);
    else setImmediate(() => respondJson(response, 200, correctAnswer(call)));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const handle: EmbeddingServer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    calls,
    script,
    maxOpenCalls: 0,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return handle;
}
