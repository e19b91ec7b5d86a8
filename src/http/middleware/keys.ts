/**
 * What opens the door to a tenant: API keys, `gk_<tenant>_<32 hex digits><32 hex digits>`, and the tokens of inbound
 * hooks' URLs, `gi_…`. The first half is random, the second a MAC of all before it by a server key. The MAC is checked
 * before anything is looked up, so nobody without a key or a token that this server made can cause a look-up, nor make a
 * Durable Object exist.
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

/** The tenant that a key of this kind was made for by one of the server keys, or null. */
export function verifyKey(serverKeys: readonly string[], key: string, kind: KeyKind = "gk"): string | null {
  const [, body, foundKind, tenant, keyMac] = KEY_PATTERN.exec(key) ?? [];
  if (body === undefined || foundKind !== kind || tenant === undefined || keyMac === undefined) return null;
  return verifyMac(serverKeys, body, keyMac) ? tenant : null;
}

/** The keys that make MACs: the server's own, and the one before, so that they can be rotated. */
export function getServerKeys(env: Cloudflare.Env): string[] {
  return [env.SERVER_KEY, env.PREVIOUS_SERVER_KEY].filter((key): key is string => !!key);
}
