/** A proxy between the Worker and the batch endpoint that a test can make lose, cut, repeat or hold back what passes. */
import { once } from "node:events";
import { createServer, type IncomingMessage, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";

/** A request on its way: `what` is submit, stop, data, artifact, or the type of a message. */
export interface ProxiedRequest {
  readonly kind: string;
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

export interface ProxiedResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

/**
 * What becomes of a request: the answer to give, or null to break the connection. `forward` sends it on, as it is, or only
 * the first bytes of its body.
 */
export type Fault = (
  passing: ProxiedRequest,
  forward: (bytes?: number) => Promise<ProxiedResponse | null>,
) => Promise<ProxiedResponse | null>;

export interface FaultyProxy {
  readonly url: string;
  /** Null lets everything pass. */
  fault: Fault | null;
  readonly close: () => Promise<void>;
}

/** Starts a proxy to `target`, which need not be there yet. */
export async function startProxy(target: () => string): Promise<FaultyProxy> {
  const server: Server = createServer(async (incoming, outgoing) => {
    const body = await readAll(incoming).catch(() => null);
    if (body === null) return;
    const proxiedRequest = toProxiedRequest(incoming, body);
    const forward = (bytes?: number) => forwardRequest(target(), proxiedRequest, bytes);
    const answer = await (proxy.fault === null ? forward() : proxy.fault(proxiedRequest, forward)).catch(() => null);
    if (answer === null) return outgoing.destroy();
    outgoing.writeHead(answer.status, answer.headers).end(answer.body);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const proxy: FaultyProxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    fault: null,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
  return proxy;
}

async function readAll(stream: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function toProxiedRequest({ method = "", url = "", headers }: IncomingMessage, body: Buffer): ProxiedRequest {
  const last = url.split("/").at(-1) ?? "";
  const message = last === "messages" ? (JSON.parse(body.toString()).type as string) : null;
  const artifact = url.includes("/artifacts/") ? (method === "GET" ? "fetch" : "artifact") : null;
  const kind = message ?? artifact ?? (method === "PUT" ? "submit" : last);
  return { kind, method, path: url, headers: headers as Record<string, string>, body };
}

/** Sends a request on; null where no answer comes. */
function forwardRequest(
  target: string,
  { method, path, headers, body }: ProxiedRequest,
  bytes?: number,
): Promise<ProxiedResponse | null> {
  return new Promise((resolve) => {
    const { host: _host, connection: _connection, ...forwardedHeaders } = headers;
    const outgoing = request(target + path, { method, headers: forwardedHeaders, agent: false }, (answer) => {
      readAll(answer).then(
        (body) => {
          const { "transfer-encoding": _encoding, connection: _connection, ...responseHeaders } = answer.headers;
          resolve({ status: answer.statusCode ?? 0, headers: responseHeaders as Record<string, string>, body });
        },
        () => resolve(null),
      );
    });
    outgoing.on("error", () => resolve(null));
    if (bytes === undefined) outgoing.end(body);
    else outgoing.write(body.subarray(0, bytes), () => setTimeout(() => outgoing.destroy(), 20));
  });
}
