import type { Context } from "hono";
import type { Failure } from "../../core/failure.ts";
import { toMilliseconds, toSecondsRoundedUp } from "../../lib/time.ts";
import type { HttpEnv } from "../context.ts";

/**
 * The platform's limiter counts per location and returns only yes or no. A call of it costs a good part of a small request.
 * So an isolate calls it once per REQUESTS_PER_UNIT requests of a key. wrangler.toml sets the units.
 */
const REQUESTS_PER_UNIT = 10;
const WINDOW_SECONDS = 10;
const UNITS_PER_WINDOW = 3_000;
export const RATE_LIMIT_POLICY = `"requests";q=${UNITS_PER_WINDOW * REQUESTS_PER_UNIT};w=${WINDOW_SECONDS}`;
/** Keys counted at once. Beyond that all counts restart, which only means more calls of the limiter. */
const MAX_TRACKED_KEYS = 10_000;

const requestCounts = new Map<string, number>();
const blockedUntil = new Map<string, number>();

/** Counts a request of a key. Returns why it is refused, or null. */
export async function checkRateLimit(c: Context<HttpEnv>, keyId: string): Promise<Failure | null> {
  const unblockTime = blockedUntil.get(keyId);
  if (unblockTime !== undefined) {
    const remainingMs = unblockTime - Date.now();
    if (remainingMs > 0) return rateLimitFailure(toSecondsRoundedUp(remainingMs));
    blockedUntil.delete(keyId);
  }
  const count = requestCounts.get(keyId) ?? 0;
  if (requestCounts.size > MAX_TRACKED_KEYS) requestCounts.clear();
  requestCounts.set(keyId, (count + 1) % REQUESTS_PER_UNIT);
  if (count !== 0) return null;
  // A limiter that fails must not refuse customers.
  const { success } = await c.env.RATE_LIMIT.limit({ key: keyId }).catch(() => ({ success: true }));
  if (success) return null;
  if (blockedUntil.size > MAX_TRACKED_KEYS) blockedUntil.clear();
  blockedUntil.set(keyId, Date.now() + toMilliseconds(WINDOW_SECONDS));
  return rateLimitFailure(WINDOW_SECONDS);
}

function rateLimitFailure(seconds: number): Failure {
  return {
    code: "rate_limited",
    message: `This API key or hook has sent more than ${UNITS_PER_WINDOW * REQUESTS_PER_UNIT} requests in ${WINDOW_SECONDS} seconds. Wait and try again; put many inputs into one request.`,
    retryAfter: seconds,
  };
}
