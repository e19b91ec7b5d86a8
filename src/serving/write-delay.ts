/** When an isolate writes what it has gathered from predictions. */

/** The platform lets an isolate work for 30 s after its last response: this, and some for further tries. */
const DEFAULT_WAIT_SECONDS = 10;
const MAX_WAIT_SECONDS = 20;
/** A write that has not begun so long after its time never will: the platform has ended its request. */
export const MAX_DELAY_MS = 10_000;

/** How long what is gathered waits to be written, in milliseconds. */
export function waitToWrite(env: Cloudflare.Env): number {
  return 1_000 * Math.min(Number(env.COUNT_SECONDS) || DEFAULT_WAIT_SECONDS, MAX_WAIT_SECONDS);
}
