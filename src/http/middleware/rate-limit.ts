import type { Context } from "hono";
import type { Failure } from "../../core/failure.ts";
import type { HttpEnv } from "../context.ts";

/**
 * The platform's limiter counts per location and answers only yes or no, and asking it costs a good part of a small
 * request. So an isolate asks once for every REQUESTS_A_UNIT requests of a key; wrangler.toml sets the units.
 */
const REQUESTS_A_UNIT = 10;
const WINDOW_SECONDS = 10;
const UNITS = 3_000;
export const RATE_LIMIT_POLICY = `"requests";q=${UNITS * REQUESTS_A_UNIT};w=${WINDOW_SECONDS}`;
/** Keys counted at once; past that all counts begin again, which only asks more often. */
const KEYS = 10_000;

const counted = new Map<string, number>();
const blocked = new Map<string, number>();

/** Counts a request of a key: null, or why it is refused. */
export async function overRateLimit(c: Context<HttpEnv>, keyId: string): Promise<Failure | null> {
  const until = blocked.get(keyId);
  if (until !== undefined) {
    const left = until - Date.now();
    if (left > 0) return refusal(left / 1000);
    blocked.delete(keyId);
  }
  const count = counted.get(keyId) ?? 0;
  if (counted.size > KEYS) counted.clear();
  counted.set(keyId, (count + 1) % REQUESTS_A_UNIT);
  if (count !== 0) return null;
  // A limiter that does not answer must not turn customers away.
  const { success } = await c.env.RATE_LIMIT.limit({ key: keyId }).catch(() => ({ success: true }));
  if (success) return null;
  if (blocked.size > KEYS) blocked.clear();
  blocked.set(keyId, Date.now() + WINDOW_SECONDS * 1000);
  return refusal(WINDOW_SECONDS);
}

function refusal(seconds: number): Failure {
  return {
    code: "rate_limited",
    message: `This API key or hook has sent more than ${UNITS * REQUESTS_A_UNIT} requests in ${WINDOW_SECONDS} seconds. Wait and try again; put many inputs into one request.`,
    retryAfter: seconds,
  };
}
