/** Receivers of webhooks: real HTTP servers, each of which keeps what comes and answers as it is told. */
import { once } from "node:events";
import { createServer, type IncomingHttpHeaders, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Webhook } from "standardwebhooks";
import type { Client, NewHead } from "../../src/sdk/client.ts";

export interface Arrival {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly receivedAt: number;
  readonly event: { readonly id: string; readonly type: string; readonly sequence: number; readonly data: object };
}

export interface Receiver {
  readonly url: string;
  readonly arrivals: Arrival[];
  /** What is done with an arrival; a receiver answers 204 at first. */
  handler: (response: ServerResponse, arrival: Arrival) => unknown;
  readonly close: () => Promise<void>;
}

export const respond =
  (status: number, headers: Record<string, string> = {}, body = "") =>
  (response: ServerResponse) =>
    response.writeHead(status, headers).end(body);

export async function startReceiver(): Promise<Receiver> {
  const server: Server = createServer(async (request, response) => {
    const receivedAt = Date.now();
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    const arrival = { path: request.url ?? "", headers: request.headers, text, receivedAt, event: JSON.parse(text) };
    receiver.arrivals.push(arrival);
    receiver.handler(response, arrival);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const receiver: Receiver = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    arrivals: [],
    handler: respond(204),
    async close() {
      if (!server.listening) return;
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
  return receiver;
}

/** Whether the library takes an arrival as signed with this secret. */
export function isSigned({ text, headers }: Arrival, secret: string): boolean {
  try {
    new Webhook(secret).verify(text, headers as Record<string, string>);
    return true;
  } catch {
    return false;
  }
}

/** The ids of the events that have come, each as often as it has. */
export function eventIds({ arrivals }: Receiver): string[] {
  return arrivals.map(({ event }) => event.id);
}

const examples = ["one", "two", "three", "four"].map((text, i) => ({ text, label: i % 2 === 0 ? "odd" : "even" }));

/** Trains a head's two versions; promoting the other one again and again is the cheapest way to many events. */
export async function trainTwoVersions(graft: Client, name: string): Promise<void> {
  const head = {
    name,
    examples,
    method: "head",
    evaluation: { method: "none" },
    hyperparameters: { l2: 1, lexical: false },
  };
  for (const _ of [1, 2]) await graft.heads.train(head as NewHead);
}
