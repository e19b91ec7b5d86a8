/**
 * The header that ends loops: a webhook sent to an inbound hook makes an event, which may be sent to that hook again. A
 * delivery says by how many webhooks its event came about, and hooks refuse messages beyond `limits.webhook_hops`.
 */
export const HOPS_HEADER = "graft-hops";

/** How many webhooks have led to a message; 0 if it says nothing that can be read. */
export function readHops(headers: Headers): number {
  const value = headers.get(HOPS_HEADER) ?? "";
  return /^\d{1,9}$/.test(value) ? Number(value) : 0;
}
