import type { Context } from "hono";
import type { Failure } from "../../core/failure.ts";
import type { HttpEnv } from "../context.ts";

/**
 * The platform's limiter counts per location and answers only yes or no, and asking it costs a good part of a small
 * request. So an isolate asks once for every REQUESTS_A_UNIT requests of a key; wrangler.toml sets the units.
 */
const REQUESTS_PER_UNIT = 10;
const WINDOW_SECONDS = 10;
const UNITS_PER_WINDOW = 3_000;
export const RATE_LIMIT_POLICY = `"requests";q=${UNITS_PER_WINDOW * REQUESTS_PER_UNIT};w=${WINDOW_SECONDS}`;
/** Keys counted at once; past that all counts begin again, which only asks more often. */
const MAX_TRACKED_KEYS = 10_000;

const requestCounts = new Map<string, number>();
const blockedUntil = new Map<string, number>();

/** Counts a request of a key: null, or why it is refused. */
export async function checkRateLimit(c: Context<HttpEnv>, keyId: string): Promise<Failure | null> {
  const unblockTime = blockedUntil.get(keyId);
  if (unblockTime !== undefined) {
    const remainingMs = unblockTime - Date.now();
    if (remainingMs > 0) return rateLimitFailure(remainingMs / 1000);
    blockedUntil.delete(keyId);
  }
  const count = requestCounts.get(keyId) ?? 0;
  if (requestCounts.size > MAX_TRACKED_KEYS) requestCounts.clear();
  requestCounts.set(keyId, (count + 1) % REQUESTS_PER_UNIT);
  if (count !== 0) return null;
  // A limiter that does not answer must not turn customers away.
  const { success } = await c.env.RATE_LIMIT.limit({ key: keyId }).catch(() => ({ success: true }));
  if (success) return null;
  if (blockedUntil.size > MAX_TRACKED_KEYS) blockedUntil.clear();
  blockedUntil.set(keyId, Date.now() + WINDOW_SECONDS * 1000);
  return rateLimitFailure(WINDOW_SECONDS);
}

function rateLimitFailure(seconds: number): Failure {
  return {
    code: "rate_limited",
    message: `This API key or hook has sent more than ${UNITS_PER_WINDOW * REQUESTS_PER_UNIT} requests in ${WINDOW_SECONDS} seconds. Wait and try again; put many inputs into one request.`,
    retryAfter: seconds,
  };
}
