/**
 * Requests a second and latency of POST /v1/heads/{name}/predict with one text, against a bare Hono route that returns the
 * same JSON. Each runs on workerd in a process of its own. The same client measures them in alternating rounds.
 */
import { join } from "node:path";
import { buildWorker, serve } from "../src/server/runtime.ts";
import { withWorker } from "./shared/local-worker.ts";
import { alternateLoad, CONCURRENCIES, prepareTickets, ROUNDS, toRow } from "./shared/predict-load.ts";
import type { Row } from "./shared/report.ts";

export const runs = ROUNDS;

/** Requests a second, p50 and p99 of both servers at each concurrency. */
export function run(): Promise<Row[]> {
  return withWorker(
    async (worker) => {
      const { url, folder } = worker;
      const requests = await prepareTickets(worker);
      const built = join(folder, "echo");
      await buildWorker(built, join(import.meta.dirname, "peers", "echo.ts"));
      const stateDir = join(folder, "echo-state");
      const server = await serve(built, { port: 0, stateDir, adminKey: "", log: () => undefined, exposeRuntime: true });
      try {
        const ours = { port: Number(new URL(url).port), requests: requests("/v1/heads/support/predict") };
        const echo = { port: Number(new URL(server.url).port), requests: requests("/echo") };
        const rows: Row[] = [];
        for (const concurrency of CONCURRENCIES) {
          const results = await alternateLoad(ours, echo, concurrency);
          for (const measure of ["requests", "p50", "p99"] as const)
            rows.push(toRow(concurrency, measure, results, "Hono JSON echo on workerd"));
        }
        return rows;
      } finally {
        await server.stop();
      }
    },
    { exposeRuntime: true },
  );
}
