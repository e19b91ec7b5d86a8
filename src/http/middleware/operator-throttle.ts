/** Wrong operator keys, counted by the client's address, so that nobody can guess at the key for long. */
import ipaddr from "ipaddr.js";
import { LruCache } from "../../lib/lru.ts";

const WINDOW_MS = 60_000;
const MAX_WRONG_KEYS = 10;
/** Addresses counted at once; the least recently seen are forgotten first. */
const MAX_ADDRESSES = 10_000;
/** A client chooses freely among the addresses of its /64. */
const IPV6_NETWORK_BYTES = 8;

interface WrongKeys {
  readonly count: number;
  readonly endsAt: number;
}
const wrongKeys = new LruCache<WrongKeys>(MAX_ADDRESSES);

function networkOf(address: string): string {
  if (!ipaddr.isValid(address)) return address;
  const parsed = ipaddr.process(address);
  const bytes = parsed.toByteArray();
  return (parsed.kind() === "ipv6" ? bytes.slice(0, IPV6_NETWORK_BYTES) : bytes).join(".");
}

/** Counts a wrong operator key from an address. */
export function recordWrongKey(address: string, now: number): void {
  const network = networkOf(address);
  const current = wrongKeys.get(network);
  const { count, endsAt } = current && current.endsAt > now ? current : { count: 0, endsAt: now + WINDOW_MS };
  wrongKeys.set(network, { count: count + 1, endsAt }, 1);
}

/** How many milliseconds the keys from an address are not looked at, or 0. */
export function throttledFor(address: string, now: number): number {
  const current = wrongKeys.get(networkOf(address));
  return current !== undefined && current.count >= MAX_WRONG_KEYS ? Math.max(0, current.endsAt - now) : 0;
}
