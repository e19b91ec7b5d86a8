/**
 * Where a webhook may go: to what is public, by HTTPS on its usual port, and to the origins that the operator allows. The
 * URL parser has brought an address that is spelt in octal, hexadecimal, full-width or percent-encoded digits into its
 * usual form. What a name resolves to cannot be told from here: see docs/webhooks.md.
 */
import ipaddr from "ipaddr.js";
import { fail, ok, type Result } from "../core/failure.ts";

/** Names that only a machine or a network of one's own knows. */
const PRIVATE_NAMES = /(^|\.)(localhost|local|internal|home\.arpa)$/;
const IPV6_UNICAST = ipaddr.IPv6.parseCIDR("2000::/3");

/** The origins in a comma-separated list, such as `http://127.0.0.1:9000`; null where one is none. */
export function parseOrigins(list: string | undefined): ReadonlySet<string> | null {
  const origins = (list ?? "")
    .split(",")
    .map((origin) => origin.trim())
    .filter((origin) => origin !== "");
  const parsed = origins.map((origin) => URL.parse(origin)?.origin ?? null);
  return parsed.every((origin) => origin !== null && /^https?:/.test(origin)) ? new Set(parsed as string[]) : null;
}

function invalidUrl(reason: string) {
  return fail("invalid_webhook_url", `A webhook cannot be sent to this URL: ${reason}.`, { param: "url" });
}

/** The URL where webhooks may be sent there; `allowed` are origins that need not be public. */
export function checkWebhookUrl(rawUrl: string, allowedOrigins: ReadonlySet<string>): Result<URL> {
  const url = /[\s\p{Cc}]/u.test(rawUrl) ? null : URL.parse(rawUrl);
  if (url === null) return invalidUrl("it is not a URL");
  if (url.username !== "" || url.password !== "") return invalidUrl("it has credentials, which are not sent");
  if (rawUrl.includes("#")) return invalidUrl("it has a fragment, which is not sent");
  if (allowedOrigins.has(url.origin)) return ok(url);
  if (url.protocol !== "https:") return invalidUrl("it is not https");
  if (url.port !== "") return invalidUrl("it names another port than 443");
  return isPublicHost(url.hostname) ? ok(url) : invalidUrl("its host is not public");
}

function isPublicHost(hostname: string): boolean {
  const host = hostname.replace(/^\[(.*)\]$/, "$1").replace(/\.$/, "");
  if (ipaddr.isValid(host)) {
    const address = ipaddr.parse(host);
    if (address.range() !== "unicast") return false;
    return address.kind() === "ipv4" || address.match(IPV6_UNICAST);
  }
  const labels = host.split(".");
  return labels.length > 1 && labels.every((label) => label !== "") && !PRIVATE_NAMES.test(host);
}
