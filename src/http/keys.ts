/**
 * API keys: `gk_<tenant>_<32 hex digits><32 hex digits>`, the first half random, the second a MAC of all before it by a
 * server key. The MAC is checked before anything is looked up, so nobody without a key that this server made can cause
 * a look-up, nor make a Durable Object exist.
 */
import { createHmac, timingSafeEqual } from "node:crypto";
import { hex, sha256Hex } from "../store/hash.ts";

export const TENANT_ID = /^[a-z0-9][a-z0-9-]{1,39}$/;
const KEY = /^(gk_([a-z0-9][a-z0-9-]{1,39})_[0-9a-f]{32})([0-9a-f]{32})$/;

function mac(serverKey: string, body: string): string {
  return createHmac("sha256", serverKey).update(body).digest("hex").slice(0, 32);
}

/** A new key for a tenant; `random` is 16 random bytes. */
export function makeKey(serverKey: string, tenant: string, random: Uint8Array): string {
  const body = `gk_${tenant}_${hex(random)}`;
  return body + mac(serverKey, body);
}

/** The tenant that a key was made for by one of the server keys, or null. */
export function verifyKey(serverKeys: readonly string[], key: string): string | null {
  const [, body, tenant, given] = KEY.exec(key) ?? [];
  if (body === undefined || tenant === undefined || given === undefined) return null;
  return serverKeys.some((serverKey) => sameSecret(mac(serverKey, body), given)) ? tenant : null;
}

/** Compares in a time that tells nothing of where the two differ. */
export function sameSecret(a: string, b: string): boolean {
  return timingSafeEqual(Buffer.from(sha256Hex(a)), Buffer.from(sha256Hex(b)));
}
