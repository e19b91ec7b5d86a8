/**
 * Requests a second and latency of POST /v1/heads/{name}/predict with one text, against a bare Hono route that returns the
 * same JSON. Each runs on workerd in a process of its own. The same client measures them in alternating rounds.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "csv-parse/sync";
import { buildWorker, serve } from "../src/server/runtime.ts";
import { generateLoad, type LoadResult } from "./shared/load-generator.ts";
import { withWorker } from "./shared/local-worker.ts";
import type { Row } from "./shared/report.ts";
import { median, pairedRatio } from "./shared/statistics.ts";

const root = join(import.meta.dirname, "..");
const CONCURRENCIES = [1, 16, 64];
export const runs = 7;
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

/** A measure of both servers, each the median of its rounds. */
function toRow(name: string, measure: keyof LoadResult, ours: readonly LoadResult[], echo: readonly LoadResult[]): Row {
  const values = ours.map((figures) => figures[measure]);
  const peers = echo.map((figures) => figures[measure]);
  return {
    case: name,
    measure: measure === "requests" ? "requests a second" : measure,
    value: median(values),
    unit: measure === "requests" ? "1/s" : "ms",
    peer: "Hono JSON echo on workerd",
    peer_value: median(peers),
    ...pairedRatio(values, peers),
    target: null,
    met: null,
  };
}

/** Requests a second, p50 and p99 of both servers at each concurrency. */
export async function run(): Promise<Row[]> {
  const tickets = readFileSync(join(root, "examples", "support-tickets.csv"));
  const texts = (parse(tickets, { columns: true }) as { text: string }[]).map(({ text }) => text);
  return withWorker(async ({ url, operator, graft, folder }) => {
    await graft.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
    await graft.datasets.import("tickets", tickets.toString(), "text/csv");
    await graft.heads.train({ name: "support", dataset: "tickets", method: "head", evaluation: { method: "none" } });
    const keys = await Promise.all(
      Array.from({ length: KEYS }, async (_, i) => {
        return (
          (await operator.tenants.createApiKey("bench", { name: `client ${i}`, scopes: ["predict"] })).secret ?? ""
        );
      }),
    );
    const requests = (path: string) => texts.map((input, i) => httpRequest(path, { input }, keys[i % KEYS] ?? ""));
    const built = join(folder, "echo");
    await buildWorker(built, join(import.meta.dirname, "peers", "echo.ts"));
    const options = { port: 0, stateDir: join(folder, "echo-state"), adminKey: "", log: () => undefined, exposeRuntime: true };
    const server = await serve(built, options);
    try {
      const ours = { port: Number(new URL(url).port), requests: requests("/v1/heads/support/predict") };
      const echo = { port: Number(new URL(server.url).port), requests: requests("/echo") };
      const rows: Row[] = [];
      for (const concurrency of CONCURRENCIES) {
        const round = { concurrency, milliseconds: ROUND_MS };
        const figures = { ours: [] as LoadResult[], echo: [] as LoadResult[] };
        await generateLoad({ ...ours, ...round });
        await generateLoad({ ...echo, ...round });
        for (let i = 0; i < runs; i++) {
          console.error(`${concurrency} at once, round ${i + 1} of ${runs} …`);
          figures.ours.push(await generateLoad({ ...ours, ...round }));
          figures.echo.push(await generateLoad({ ...echo, ...round }));
        }
        const name = `${concurrency} at once`;
        for (const measure of ["requests", "p50", "p99"] as const)
          rows.push(toRow(name, measure, figures.ours, figures.echo));
      }
      return rows;
    } finally {
      await server.stop();
    }
  });
}
