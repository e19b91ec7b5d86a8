/** What of a message's headers crosses the front. */
import type { IncomingHttpHeaders, IncomingMessage, OutgoingHttpHeaders } from "node:http";

/** Headers of one connection, not of the message (RFC 9110, section 7.6.1). */
const CONNECTION_HEADERS = new Set([
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);

/** Headers that only the front sets, or that the runtime obeys: clients could pretend to be another, or another path. */
const FRONT_HEADERS = /^(?:mf-|cf-|x-forwarded-|forwarded$|x-real-ip$|true-client-ip$|host$|expect$)/;

/** The names of headers that an end of a connection declares to be the connection's own. */
function parseConnection(header: string | readonly string[] | undefined): string[] {
  if (header === undefined) return [];
  // The body's length is the message's own, whatever Connection says of it.
  return splitList(header.toString().toLowerCase()).filter((name) => name !== "content-length");
}

export interface Client {
  readonly address: string;
  readonly isSecure: boolean;
}

/**
 * Who sent a request. Each of `trustedProxies` proxies in front of this server has added the address of its own client
 * to the end of X-Forwarded-For, so the last so many entries are true and those before are the client's claim.
 */
export function readClient(request: IncomingMessage, trustedProxies: number): Client {
  const peer = (request.socket.remoteAddress ?? "").replace(/^::ffff:(?=\d+\.)/, "");
  const isEncrypted = "encrypted" in request.socket;
  if (trustedProxies === 0) return { address: peer, isSecure: isEncrypted };
  const addresses = splitList(request.headers["x-forwarded-for"]);
  const protocols = splitList(request.headers["x-forwarded-proto"]);
  return {
    address: addresses.at(-trustedProxies) ?? peer,
    isSecure: isEncrypted || (protocols.at(-trustedProxies) ?? protocols.at(-1)) === "https",
  };
}

function splitList(header: string | readonly string[] | undefined): string[] {
  return String(header ?? "")
    .split(",")
    .map((entry) => entry.trim())
    .filter((entry) => entry !== "");
}

/** The headers of a request to the runtime. The runtime takes a request's URL from MF-Original-URL, for the https in it. */
export function requestHeaders(request: IncomingMessage, host: string, path: string, client: Client): string[] {
  const { rawHeaders } = request;
  const named = parseConnection(request.headers.connection);
  const headers = ["host", host, "cf-connecting-ip", client.address];
  if (client.isSecure) headers.push("mf-original-url", `https://${host}${path}`);
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const [rawName = "", value = ""] = [rawHeaders[i], rawHeaders[i + 1]];
    const name = rawName.toLowerCase();
    if (!CONNECTION_HEADERS.has(name) && !named.includes(name) && !FRONT_HEADERS.test(name)) headers.push(name, value);
  }
  return headers;
}

/** A message's headers without those of its connection and those of the runtime's own. */
export function endToEndHeaders(headers: IncomingHttpHeaders): OutgoingHttpHeaders {
  const named = parseConnection(headers.connection);
  const endToEnd: OutgoingHttpHeaders = {};
  for (const [name, value] of Object.entries(headers))
    if (!CONNECTION_HEADERS.has(name) && !named.includes(name) && !name.startsWith("mf-")) endToEnd[name] = value;
  return endToEnd;
}
