/**
 * The Worker's way to the network: an HTTP proxy on a Unix socket. The host of a webhook is its tenant's choice, and its name
 * could lead into this machine's network, so a name is resolved here, once for each connection, and only what is public is
 * connected to (a check before could be given another address than the connection). The platform does the same for its
 * Workers.
 */
import { Resolver } from "node:dns/promises";
import { once } from "node:events";
import { rmSync } from "node:fs";
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type ServerOptions,
  type ServerResponse,
} from "node:http";
import { isIP, type LookupFunction } from "node:net";
import { buffer } from "node:stream/consumers";
import { Agent, type Dispatcher } from "undici";
import { listBackboneOrigins } from "../backbones/index.ts";
import { endToEndHeaders } from "../front/headers.ts";
import { HOPS_HEADER } from "../webhooks/hops.ts";
import { ADDRESS_PROHIBITED } from "../webhooks/send.ts";
import { isPublicAddress, parseOrigins } from "../webhooks/url.ts";

const SMALL_BODY_BYTES = 65_536;

/**
 * A proxy's requests have a whole URL and need no Host. The runtime closes an idle connection after 5 s; if this side did
 * it first, the next request could be lost.
 */
const serverOptions: ServerOptions = { requireHostHeader: false, requestTimeout: 0, keepAliveTimeout: 60_000 };

/** The IPv4 and IPv6 addresses of a host name. */
export type Resolve = (name: string) => Promise<readonly string[]>;

export interface OutboundOptions {
  readonly socketPath: string;
  /** The Worker's: what they name may be private. */
  readonly variables: Readonly<Record<string, string>>;
  /** By default DNS answers, and no file of this machine. */
  readonly resolve?: Resolve | undefined;
}

/** Starts the proxy. Returns the function that stops it. */
export async function startOutbound(options: OutboundOptions): Promise<() => Promise<void>> {
  const { socketPath, variables, resolve = resolveByDns } = options;
  const webhookOrigins = parseOrigins(variables.WEBHOOK_ORIGINS) ?? new Set();
  const serviceOrigins = new Set([
    ...listBackboneOrigins(variables.BACKBONES),
    URL.parse(variables.BATCH_URL ?? "")?.origin,
  ]);
  // The Worker's own time limits end a request: it closes the connection to this proxy.
  const timeouts = { headersTimeout: 0, bodyTimeout: 0 };
  const publicNetwork = new Agent({ ...timeouts, connect: { lookup: publicLookup(resolve) } });
  const anyNetwork = new Agent(timeouts);
  const server = createServer(serverOptions, (request, response) => {
    const url = URL.parse(request.url ?? "");
    if (url === null) return void response.destroy();
    const isWebhook = request.headers[HOPS_HEADER] !== undefined;
    const isNamed = (isWebhook ? webhookOrigins : serviceOrigins).has(url.origin);
    // An address is not resolved.
    if (!isNamed && isPrivateAddress(url.hostname)) return refuse(response);
    pass(request, response, url, isNamed ? anyNetwork : publicNetwork).catch(() => response.destroy());
  });
  rmSync(socketPath, { force: true });
  server.listen(socketPath);
  await once(server, "listening");
  return async () => {
    server.close();
    server.closeAllConnections();
    await Promise.all([publicNetwork.destroy(), anyNetwork.destroy()]);
  };
}

function isPrivateAddress(hostname: string): boolean {
  const host = hostname.replace(/^\[(.*)\]$/, "$1");
  return isIP(host) !== 0 && !isPublicAddress(host);
}

async function resolveByDns(name: string): Promise<string[]> {
  const resolver = new Resolver({ timeout: 2_000, tries: 3 });
  const answers = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)]);
  return answers.flatMap((answer) => (answer.status === "fulfilled" ? answer.value : []));
}

/** Looks a name up for a connection, which then has no other addresses to go to. Fails if one of them is not public. */
function publicLookup(resolve: Resolve): LookupFunction {
  const lookup = async (name: string) => {
    const addresses = await resolve(name);
    if (addresses.length === 0) throw new Error("no address");
    if (!addresses.every(isPublicAddress)) throw new Error(ADDRESS_PROHIBITED);
    return addresses.map((address) => ({ address, family: isIP(address) }));
  };
  return (name, options, callback) => {
    lookup(name).then(
      (addresses) => {
        const [first = { address: "", family: 4 }] = addresses;
        if (options.all) callback(null, addresses);
        else callback(null, first.address, first.family);
      },
      (error) => callback(error, ""),
    );
  };
}

function refuse(response: ServerResponse): void {
  response.writeHead(502, { "proxy-status": `graft; error=${ADDRESS_PROHIBITED}` }).end();
}

/**
 * Sends a request on, and its answer back. The connection to the Worker breaks where the other one does, and the other way
 * round.
 */
async function pass(request: IncomingMessage, response: ServerResponse, url: URL, network: Agent): Promise<void> {
  const { host: _ofProxy, "cf-worker": _zone, ...headers } = endToEndHeaders(request.headers);
  const body = await readBody(request);
  const { origin, pathname, search } = url;
  const method = request.method as Dispatcher.HttpMethod;
  const options = { origin, path: pathname + search, method, headers: headers as IncomingHttpHeaders, body };
  network.dispatch(options, {
    onRequestStart(controller) {
      if (response.destroyed) return controller.abort(new Error("The Worker has given up."));
      response.once("close", () => controller.abort(new Error("The Worker has given up.")));
      response.on("drain", () => controller.resume());
    },
    onResponseStart(_controller, status, answerHeaders) {
      if (status < 200) return;
      // Only this proxy's own refusals reach the Worker as such.
      const { "proxy-status": _ofOthers, ...workerHeaders } = endToEndHeaders(answerHeaders);
      response.writeHead(status, workerHeaders);
    },
    onResponseData(controller, chunk) {
      if (!response.write(chunk)) controller.pause();
    },
    onResponseEnd() {
      response.end();
    },
    onResponseError(_controller, error) {
      if (error.message === ADDRESS_PROHIBITED) refuse(response);
      else response.destroy();
    },
  });
}

/** A small body is sent whole: that costs half of what a stream does. */
async function readBody(request: IncomingMessage): Promise<IncomingMessage | Buffer | null> {
  const { "transfer-encoding": encoding, "content-length": length = "0" } = request.headers;
  if (encoding !== undefined || Number(length) > SMALL_BODY_BYTES) return request;
  return Number(length) === 0 ? null : buffer(request);
}
