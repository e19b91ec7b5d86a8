/** Where webhooks may go: addresses in every spelling that a URL may have. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { checkWebhookUrl, parseOrigins } from "../../src/webhooks/url.ts";

const none: ReadonlySet<string> = new Set();
const isAllowed = (url: string, allowed = none) => checkWebhookUrl(url, allowed).ok;

describe("what is public is taken", () => {
  test.each([
    "https://example.com",
    "https://example.com/hooks?token=a%20b",
    "https://example.com:443/hooks",
    "HTTPS://EXAMPLE.COM/",
    "https://example.com./hooks",
    "https://bücher.example/hooks",
    "https://xn--bcher-kva.example/",
    "https://a-b_c.example.co.uk/",
    "https://localhost.example.com/",
    "https://internal.example.com/",
    "https://mylocal.net/",
    "https://corp.example.com/",
    "https://svc.example.com/",
    "https://mycorp.com/",
    "https://wlan.example/",
    "https://168.63.129.17/",
    "https://8.8.8.8/hooks",
    "https://134744072/",
    "https://[2606:4700::1111]/hooks",
    "https://example.com/a@b:c",
  ])("%s", (url) => {
    expect(isAllowed(url)).toBe(true);
  });
});

describe("what is not a public HTTPS server is refused", () => {
  test.each([
    [
      "not a URL",
      ["", "example.com", "/hooks", "https://", "https:///", "https://exa mple.com", "https://[::1", "//a.b"],
    ],
    [
      "white space and control characters",
      [" https://example.com", "https://example.com/\n", "https://exam\tple.com/"],
    ],
    [
      "another scheme",
      ["http://example.com", "ftp://example.com", "file:///etc/passwd", "data:text/plain,x", "ws://a.b"],
    ],
    ["credentials", ["https://user@example.com", "https://:secret@example.com", "https://a:b@example.com"]],
    ["a fragment", ["https://example.com/#a", "https://example.com/#"]],
    ["another port", ["https://example.com:8443", "https://example.com:80", "https://8.8.8.8:444", "https://a.b:0"]],
    [
      "a name of a machine's or a network's own",
      [
        "https://localhost",
        "https://LOCALHOST./",
        "https://ⓛocalhost/",
        "https://%6cocalhost/",
        "https://a.localhost/",
        "https://printer.local/",
        "https://printer.local./",
        "https://metadata.google.internal/",
        "https://router.home.arpa/",
        "https://home.arpa/",
        "https://metadata.goog/computeMetadata/v1/",
        "https://metadata.goog./",
        "https://a.metadata.goog/",
        "https://billing.default.svc/",
        "https://nas.lan/",
        "https://NAS.LAN./",
        "https://wiki.corp/",
        "https://wiki.intranet/",
        "https://machine.localdomain/",
        "https://localhost.localdomain/",
        "https://billing.default.svc.cluster.local/",
        "https://internal/",
        "https://intranet/",
        "https://com/",
        "https://db。internal/",
      ],
    ],
    ["empty labels", ["https://a..b/", "https://.example.com/", "https://example.com../", "https://127.0.0.1../"]],
    [
      "127.0.0.1 in its many spellings",
      [
        "https://127.0.0.1/",
        "https://127.0.0.1./",
        "https://127.1/",
        "https://127.0.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://017700000001/",
        "https://0x7F.1/",
        "https://１２７.０.０.１/",
        "https://①②⑦.0.0.1/",
        "https://127。0。0。1/",
        "https://%31%32%37.0.0.1/",
        "https://127.0.0.1%2e/",
        "https://[::1]/",
        "https://[0:0:0:0:0:0:0:1]/",
        "https://[::127.0.0.1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[64:ff9b::127.0.0.1]/",
        "https://[64:ff9b:1::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[2001:0:7f00:1::]/",
      ],
    ],
    [
      "other addresses that are not public",
      [
        "https://0.0.0.0/",
        "https://0/",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.0.1/",
        "https://3232235521/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0xa9fea9fe/",
        "https://100.64.0.1/",
        "https://192.0.0.192/",
        "https://168.63.129.16/",
        "https://168.63.129.16./",
        "https://0xa83f8110/",
        "https://2822734096/",
        "https://168.63.33040/",
        "https://192.0.2.1/",
        "https://198.18.0.1/",
        "https://198.51.100.1/",
        "https://203.0.113.1/",
        "https://224.0.0.1/",
        "https://240.0.0.1/",
        "https://255.255.255.255/",
        "https://[::]/",
        "https://[fe80::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fc00::1]/",
        "https://[fd00:ec2::254]/",
        "https://[fec0::1]/",
        "https://[ff02::1]/",
        "https://[2001:db8::1]/",
        "https://[::ffff:8.8.8.8]/",
        "https://[4000::1]/",
      ],
    ],
  ])("%s", (_what, urls) => {
    for (const url of urls) expect([url, isAllowed(url)]).toEqual([url, false]);
  });

  test("with a code, where and why", () => {
    const refused = checkWebhookUrl("https://10.0.0.1/", none);
    expect(refused).toEqual({
      ok: false,
      failure: {
        code: "invalid_webhook_url",
        message:
          "A webhook cannot be sent to this URL: its host is not public; the operator of this server can allow 'https://10.0.0.1' by WEBHOOK_ORIGINS.",
        param: "url",
      },
    });
  });

  test("every private IPv4 address, however it is spelt", () => {
    const octet = fc.integer({ min: 0, max: 255 });
    const address = fc.tuple(fc.constantFrom(10, 127, 0), octet, octet, octet);
    const spelling = fc.constantFrom(10, 8, 16);
    const spell = (value: number, base: number) => ({ 8: "0", 10: "", 16: "0x" })[base] + value.toString(base);
    fc.assert(
      fc.property(
        address,
        fc.tuple(spelling, spelling, spelling, spelling),
        fc.integer({ min: 1, max: 4 }),
        (octets, bases, parts) => {
          // The last part stands for all octets that are left.
          const trailingOctets = octets.slice(parts - 1).reduce((sum, octetByte) => sum * 256 + octetByte, 0);
          const spellings = [...octets.slice(0, parts - 1), trailingOctets].map((value, i) =>
            spell(value, bases[i] ?? 10),
          );
          expect(isAllowed(`https://${spellings.join(".")}/`)).toBe(false);
        },
      ),
    );
  });
});

describe("origins that the operator allows", () => {
  test("are taken with any path, and no others", () => {
    const allowed = parseOrigins(" http://127.0.0.1:9000, https://hooks.internal/ ,") ?? none;
    expect([...allowed]).toEqual(["http://127.0.0.1:9000", "https://hooks.internal"]);
    for (const url of ["http://127.0.0.1:9000/a?b", "http://127.0.0.1:9000", "https://hooks.internal:443/x"])
      expect(isAllowed(url, allowed), url).toBe(true);
    for (const url of [
      "http://127.0.0.1:9001/",
      "https://127.0.0.1:9000/",
      "http://127.0.0.1/",
      "http://hooks.internal/",
      "https://hooks.internal.local/",
      "http://user@127.0.0.1:9000/",
      "http://127.0.0.1:9000/#a",
      "http://localhost:9000/",
    ])
      expect(isAllowed(url, allowed), url).toBe(false);
  });

  test("are a list of origins, or nothing", () => {
    expect(parseOrigins(undefined)?.size).toBe(0);
    expect(parseOrigins(" , ")?.size).toBe(0);
    for (const list of ["127.0.0.1:9000", "ftp://a.b", "http://a.b, nothing", "*"])
      expect(parseOrigins(list)).toBeNull();
  });
});
