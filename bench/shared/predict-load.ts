/** What predict.ts and front.ts share: a head on support tickets, and rounds of load on two servers. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "csv-parse/sync";
import { generateLoad, type LoadResult } from "./load-generator.ts";
import type { LocalWorker } from "./local-worker.ts";
import { makeRow, type Row } from "./report.ts";
import { median, pairedRatio } from "./statistics.ts";

export const CONCURRENCIES = [1, 16, 64];
export const ROUNDS = 7;
const ROUND_MS = 2000;
/** Requests use several API keys in turn, so that no key reaches its rate limit. */
const KEYS = 8;

/** An HTTP/1.1 request as bytes. It is built once, so that the client's own work is small. */
function httpRequest(path: string, body: unknown, key: string): Buffer {
  const json = JSON.stringify(body);
  const head = [
    `POST ${path} HTTP/1.1`,
    "host: 127.0.0.1",
    "content-type: application/json",
    `authorization: Bearer ${key}`,
    `content-length: ${Buffer.byteLength(json)}`,
  ];
  return Buffer.from(`${head.join("\r\n")}\r\n\r\n${json}`);
}

/** Trains the head `support` and answers one request for each ticket to a path, under the worker's keys in turn. */
export async function prepareTickets(
  { operator, graft }: LocalWorker,
  backbone = "text-static-1",
): Promise<(path: string) => Buffer[]> {
  const tickets = readFileSync(join(import.meta.dirname, "..", "..", "examples", "support-tickets.csv"));
  const texts = (parse(tickets, { columns: true }) as { text: string }[]).map(({ text }) => text);
  await graft.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
  await graft.datasets.import("tickets", tickets.toString(), "text/csv");
  await graft.heads.train({
    name: "support",
    dataset: "tickets",
    backbone,
    method: "head",
    evaluation: { method: "none" },
  });
  const keys = await Promise.all(
    Array.from({ length: KEYS }, async (_, i) => {
      const { secret } = await operator.tenants.createApiKey("bench", { name: `client ${i}`, scopes: ["predict"] });
      return secret ?? "";
    }),
  );
  return (path) => texts.map((input, i) => httpRequest(path, { input }, keys[i % KEYS] ?? ""));
}

/** A server under load. */
export interface Target {
  readonly port: number;
  readonly requests: readonly Buffer[];
}

/** What each round measured. */
export interface PairedResults {
  readonly ours: readonly LoadResult[];
  readonly peers: readonly LoadResult[];
}

/** Puts so many requests at once on either server in turn, after one round for each to warm up. */
export async function alternateLoad(ours: Target, peer: Target, concurrency: number): Promise<PairedResults> {
  const round = { concurrency, milliseconds: ROUND_MS };
  const results = { ours: [] as LoadResult[], peers: [] as LoadResult[] };
  await generateLoad({ ...ours, ...round });
  await generateLoad({ ...peer, ...round });
  for (let i = 0; i < ROUNDS; i++) {
    console.error(`${concurrency} at once, round ${i + 1} of ${ROUNDS} …`);
    results.ours.push(await generateLoad({ ...ours, ...round }));
    results.peers.push(await generateLoad({ ...peer, ...round }));
  }
  return results;
}

/** A measure of both servers, each the median of its rounds. */
export function toRow(
  concurrency: number,
  measure: keyof LoadResult,
  results: PairedResults,
  peer: string,
): Row & { readonly ratio: number; readonly peer_value: number } {
  const values = results.ours.map((figures) => figures[measure]);
  const peers = results.peers.map((figures) => figures[measure]);
  const name = measure === "requests" ? "requests a second" : measure;
  return {
    ...makeRow({ case: `${concurrency} at once`, measure: name, value: median(values) }),
    unit: measure === "requests" ? "1/s" : "ms",
    peer,
    peer_value: median(peers),
    ...pairedRatio(values, peers),
  };
}
