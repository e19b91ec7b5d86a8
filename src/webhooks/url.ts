/**
 * Where a webhook may be sent: to a public host by HTTPS on port 443, and to the origins that the operator allows. The URL
 * parser normalises addresses in octal, hexadecimal, full-width or percent-encoded digits. What a host name resolves to is
 * not known here: src/server/outbound.ts checks that, where a machine's own network could be reached.
 */
import ipaddr from "ipaddr.js";
import { fail, ok, type Result } from "../core/failure.ts";

/** Host names of this machine, of a private network or cluster, or of a cloud's metadata service. */
const PRIVATE_NAMES = /(^|\.)(localhost|localdomain|local|internal|intranet|corp|lan|svc|home\.arpa|metadata\.goog)$/;
/** Azure's virtual machines reach their host's services at this address, which is in a public range. */
const AZURE_HOST = "168.63.129.16";
const IPV6_UNICAST = ipaddr.IPv6.parseCIDR("2000::/3");

/** The origins in a comma-separated list such as `http://127.0.0.1:9000`; null if an entry is not an origin. */
export function parseOrigins(list: string | undefined): ReadonlySet<string> | null {
  const origins = (list ?? "")
    .split(",")
    .map((origin) => origin.trim())
    .filter((origin) => origin !== "");
  const parsed = origins.map((origin) => URL.parse(origin)?.origin ?? "");
  return parsed.every((origin) => /^https?:/.test(origin)) ? new Set(parsed) : null;
}

function invalidUrl(reason: string) {
  return fail("invalid_webhook_url", `A webhook cannot be sent to this URL: ${reason}.`, { param: "url" });
}

/** The parsed URL, or the reason why no webhook may be sent to it. `allowedOrigins` need not be public. */
export function checkWebhookUrl(rawUrl: string, allowedOrigins: ReadonlySet<string>): Result<URL> {
  const url = /[\s\p{Cc}]/u.test(rawUrl) ? null : URL.parse(rawUrl);
  if (url === null) return invalidUrl("it is not a URL");
  if (url.username !== "" || url.password !== "") return invalidUrl("it has credentials, which are not sent");
  if (rawUrl.includes("#")) return invalidUrl("it has a fragment, which is not sent");
  if (allowedOrigins.has(url.origin)) return ok(url);
  const allow = `; the operator of this server can allow '${url.origin}' by WEBHOOK_ORIGINS`;
  if (!isPublicHost(url.hostname)) return invalidUrl(`its host is not public${allow}`);
  if (url.protocol !== "https:") return invalidUrl(`it is not https${allow}`);
  return url.port === "" ? ok(url) : invalidUrl(`it names another port than 443${allow}`);
}

/** Whether an IPv4 or IPv6 address, in its usual spelling, is of a host on the public internet. */
export function isPublicAddress(text: string): boolean {
  const address = ipaddr.parse(text);
  if (address.range() !== "unicast" || text === AZURE_HOST) return false;
  return address.kind() === "ipv4" || address.match(IPV6_UNICAST);
}

function isPublicHost(hostname: string): boolean {
  const host = hostname.replace(/^\[(.*)\]$/, "$1").replace(/\.$/, "");
  if (ipaddr.isValid(host)) return isPublicAddress(host);
  const labels = host.split(".");
  return labels.length > 1 && labels.every((label) => label !== "") && !PRIVATE_NAMES.test(host);
}
