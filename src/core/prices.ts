/**
 * What a training costs, by a table of prices. Sources, as of November 2026:
 *
 *   edge_million_cpu_ms   0.02      https://developers.cloudflare.com/workers/platform/pricing/ (CPU time beyond the plan's)
 *   batch_vcpu_second     0.000020  https://developers.cloudflare.com/containers/pricing/ (one vCPU; memory and disk not)
 */
import { fail, ok, type Result } from "./failure.ts";

/** In USD. */
export interface Prices {
  /** Of a million milliseconds of CPU time of the Worker. */
  readonly edge_million_cpu_ms: number;
  /** Of a second of one vCPU of the batch endpoint. */
  readonly batch_vcpu_second: number;
}

export const defaultPrices: Prices = { edge_million_cpu_ms: 0.02, batch_vcpu_second: 0.00002 };

/** Floating-point operations a second of one core that trains: 12 to 17 at the edge (limits.ts), 11 with layers (bench/transfer.ts). */
export const OPERATIONS_PER_SECOND = 12e9;

/** What so many operations cost where they are done, in USD. */
export function trainingPrice(where: "edge" | "batch", operations: number, prices: Prices): number {
  const seconds = operations / OPERATIONS_PER_SECOND;
  return seconds * (where === "edge" ? prices.edge_million_cpu_ms / 1_000 : prices.batch_vcpu_second);
}

/** The default prices, with those that the JSON of the variable PRICES has in their place. */
export function parsePrices(configuration: string | undefined): Result<Prices> {
  const invalid = (what: string) => fail("internal_error", `PRICES ${what}`);
  if (configuration === undefined || configuration.trim() === "") return ok(defaultPrices);
  let json: unknown;
  try {
    json = JSON.parse(configuration);
  } catch {
    return invalid("is not JSON");
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) return invalid("is not a JSON object");
  for (const [name, price] of Object.entries(json)) {
    if (!(name in defaultPrices)) return invalid(`has no '${name}', only ${Object.keys(defaultPrices).join(" and ")}`);
    if (typeof price !== "number" || !(price >= 0)) return invalid(`must have a number from 0 as '${name}'`);
  }
  return ok({ ...defaultPrices, ...json });
}
