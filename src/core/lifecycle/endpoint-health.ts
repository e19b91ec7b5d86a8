/**
 * What a tenant knows of its webhook endpoints' health, and which of them may be sent another attempt. An endpoint that
 * keeps failing is protected by a circuit breaker: nothing is sent while the circuit is open. Times are in
 * milliseconds.
 */
import type { AttemptOutcome } from "./delivery.ts";
import { storedJson } from "./stored-json.ts";

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

export interface EndpointHealth {
  /** Whether a delivery to it has ever succeeded. */
  readonly proven: boolean;
  /** Attempts in flight at once, at most. */
  readonly window: number;
  /** Failures in a row. */
  readonly failures: number;
  /** How often those failures have opened the circuit. */
  readonly circuitTrips: number;
  /** Nothing is sent before this. */
  readonly circuitOpenUntil: number;
  /** The time of the first of those failures. */
  readonly failingSince: number | null;
}

export const newEndpointHealth: EndpointHealth = {
  proven: false,
  window: 1,
  failures: 0,
  circuitTrips: 0,
  circuitOpenUntil: 0,
  failingSince: null,
};

/** An endpoint's health as the ledger stores it. */
export const { encode: encodeEndpointHealth, decode: decodeEndpointHealth } = storedJson<EndpointHealth>({
  circuitTrips: "openings",
  circuitOpenUntil: "openUntil",
});

const MAX_WINDOW = 4;
/**
 * So many failures in a row open the circuit, longer each time. Then a single attempt shows whether the endpoint is
 * back.
 */
const CIRCUIT_FAILURE_THRESHOLD = 5;
const MIN_CIRCUIT_OPEN = 30 * SECOND;
const MAX_CIRCUIT_OPEN = 10 * MINUTE;
const MAX_RETRY_AFTER = 24 * HOUR;
/** An endpoint that has failed without a success for so long is disabled. */
const DISABLE_AFTER = 5 * 24 * HOUR;

/** An endpoint's health after the outcome of an attempt. */
export function recordOutcome(health: EndpointHealth, outcome: AttemptOutcome, now: number): EndpointHealth {
  if (outcome.type === "succeeded") {
    // `circuitOpenUntil` stays: the endpoint may have asked for that wait.
    const window = Math.min(health.window + 1, MAX_WINDOW);
    return { ...health, proven: true, window, failures: 0, circuitTrips: 0, failingSince: null };
  }
  const failures = health.failures + 1;
  const failedHealth = { ...health, window: 1, failures, failingSince: health.failingSince ?? now };
  const retryAfter = outcome.type === "failed" ? outcome.retryAfter : null;
  // Attempts that were in flight when the circuit opened do not open it for longer.
  const trips =
    health.circuitOpenUntil <= now &&
    (failures >= CIRCUIT_FAILURE_THRESHOLD || (outcome.type === "failed" && outcome.busy && retryAfter === null));
  const openDuration = trips ? Math.min(MIN_CIRCUIT_OPEN * 2 ** health.circuitTrips, MAX_CIRCUIT_OPEN) : 0;
  const blockedUntil = now + Math.max(openDuration, Math.min(retryAfter ?? 0, MAX_RETRY_AFTER));
  return {
    ...failedHealth,
    circuitTrips: health.circuitTrips + (trips ? 1 : 0),
    circuitOpenUntil: Math.max(health.circuitOpenUntil, blockedUntil),
  };
}

/** Why to disable an endpoint after this outcome; null if it stays enabled. */
export function disableReason(
  { failingSince }: EndpointHealth,
  outcome: AttemptOutcome,
  now: number,
): "gone" | "failing" | null {
  if (outcome.type === "gone") return "gone";
  return failingSince !== null && now - failingSince >= DISABLE_AFTER ? "failing" : null;
}

/** An endpoint with an attempt that has lasted so long counts as failing. */
export const SLOW_ATTEMPT_MS = SECOND;

export interface EndpointLoad {
  readonly health: EndpointHealth;
  /** When each of its attempts in flight started. */
  readonly attemptStarts: readonly number[];
}

/** The platform allows so many open connections. */
const MAX_CONNECTIONS = 6;
const MAX_FAILING_CONNECTIONS = 1;
const MAX_UNPROVEN_CONNECTIONS = 2;
/** Failing and unproven endpoints together. The other connections are for healthy ones. */
const MAX_UNHEALTHY_CONNECTIONS = 4;

function healthStatus({ health, attemptStarts }: EndpointLoad, now: number): "healthy" | "unproven" | "failing" {
  // A single failure may be an accident, such as a deployment of the receiver.
  if (health.failures > 1 || attemptStarts.some((start) => now - start >= SLOW_ATTEMPT_MS)) return "failing";
  return health.proven ? "healthy" : "unproven";
}

/**
 * Whether another attempt may start at an endpoint, given all attempts in flight at `endpoints`, the tenant's.
 * Endpoints that fail or hang share few connections, so that the others never wait for them. The last free connection
 * is not given to an endpoint that has an attempt in flight already.
 */
export function canDispatch(endpoint: EndpointLoad, endpoints: readonly EndpointLoad[], now: number): boolean {
  const { health, attemptStarts } = endpoint;
  const countInFlight = (status: string | null) =>
    endpoints.reduce(
      (sum, one) => sum + (status === null || healthStatus(one, now) === status ? one.attemptStarts.length : 0),
      0,
    );
  if (health.circuitOpenUntil > now || attemptStarts.length >= health.window) return false;
  if (countInFlight(null) >= (attemptStarts.length > 0 ? MAX_CONNECTIONS - 1 : MAX_CONNECTIONS)) return false;
  const status = healthStatus(endpoint, now);
  if (status === "healthy") return true;
  const [failing, unproven] = [countInFlight("failing"), countInFlight("unproven")];
  if (failing + unproven >= MAX_UNHEALTHY_CONNECTIONS) return false;
  return status === "failing" ? failing < MAX_FAILING_CONNECTIONS : unproven < MAX_UNPROVEN_CONNECTIONS;
}
