/**
 * The token of one attempt at a job: `gb_<tenant>_<job>_<attempt>_<32 hex digits>`, the last a MAC of all before it by a
 * server key, checked before anything is looked up, as that of an API key is.
 */
import { createHmac, timingSafeEqual } from "node:crypto";

export interface Attempt {
  readonly tenant: string;
  readonly job: string;
  readonly attempt: number;
}

const TOKEN = /^(gb_([a-z0-9][a-z0-9-]{1,39})_(ftjob-[0-9a-f]{32})_([1-9]\d{0,8}))_([0-9a-f]{32})$/;

function mac(serverKey: string, body: string): string {
  return createHmac("sha256", serverKey).update(body).digest("hex").slice(0, 32);
}

export function makeToken(serverKey: string, { tenant, job, attempt }: Attempt): string {
  const body = `gb_${tenant}_${job}_${attempt}`;
  return `${body}_${mac(serverKey, body)}`;
}

/** The attempt that a token was made for by one of the server keys, or null. */
export function verifyToken(serverKeys: readonly string[], token: string): Attempt | null {
  const [, body, tenant, job, attempt, given] = TOKEN.exec(token) ?? [];
  if (body === undefined || tenant === undefined || job === undefined || given === undefined) return null;
  const holds = serverKeys.some((key) => timingSafeEqual(Buffer.from(mac(key, body)), Buffer.from(given)));
  return holds ? { tenant, job, attempt: Number(attempt) } : null;
}
