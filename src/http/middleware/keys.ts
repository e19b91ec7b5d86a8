/**
 * API keys, `gk_<tenant>_<32 hex digits><32 hex digits>`, and the tokens of inbound hooks' URLs, `gi_…`. The first 32
 * digits are random. The others are a MAC of everything before them by a server key. The MAC is checked before anything is
 * looked up: only a key or a token that this server made causes a look-up, or creates a Durable Object.
 */
import { mac, toHex, verifyMac } from "../../lib/hash.ts";

const KEY_PATTERN = /^((gk|gi)_([a-z0-9][a-z0-9-]{1,39})_[0-9a-f]{32})([0-9a-f]{32})$/;

/** An API key, or the token of an inbound hook. */
type KeyKind = "gk" | "gi";

/** A new key for a tenant; `random` is 16 random bytes. */
export function createKey(serverKey: string, tenant: string, random: Uint8Array, kind: KeyKind = "gk"): string {
  const body = `${kind}_${tenant}_${toHex(random)}`;
  return body + mac(serverKey, body);
}

/** The tenant of a key of this kind that one of the server keys has signed, or null. */
export function verifyKey(serverKeys: readonly string[], key: string, kind: KeyKind = "gk"): string | null {
  const [, body, foundKind, tenant, keyMac] = KEY_PATTERN.exec(key) ?? [];
  if (body === undefined || foundKind !== kind || tenant === undefined || keyMac === undefined) return null;
  return verifyMac(serverKeys, body, keyMac) ? tenant : null;
}

/** The keys for MACs: the current one, and the previous one for as long as a rotation takes. */
export function getServerKeys(env: Cloudflare.Env): string[] {
  return [env.SERVER_KEY, env.PREVIOUS_SERVER_KEY].filter((key): key is string => !!key);
}
