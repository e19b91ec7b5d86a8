/** Who said a message to or from the batch endpoint, and of which attempt: signatures and tokens. */
import fc from "fast-check";
import { Webhook } from "standardwebhooks";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { sign, TOLERANCE_SECONDS, verify } from "../../src/jobs/sign.ts";
import { type Attempt, makeToken, verifyToken } from "../../src/jobs/token.ts";

const secretOf = (text: string) => `whsec_${Buffer.from(text).toString("base64")}`;
const secret = secretOf("a secret of 24 bytes ...");
const other = secretOf("another secret of 24 ...");
const NOW = Date.parse("2026-01-01T00:00:00Z");
const body = JSON.stringify({ type: "heartbeat", message: "né ü 返金" });
const signed = (changes: Record<string, string> = {}, of = secret, now = NOW) =>
  new Headers({ ...sign(of, body, "msg_1", now), ...changes });

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["Date"], now: NOW });
});
afterEach(() => {
  vi.useRealTimers();
});

/** A text with one character another one, left out, or put in. */
function changed(text: string, at: number, character: string, how: "replace" | "remove" | "insert"): string {
  const rest = how === "insert" ? at : at + 1;
  return text.slice(0, at) + (how === "remove" ? "" : character) + text.slice(rest);
}
const change = fc.tuple(
  fc.nat(),
  fc.string({ minLength: 1, maxLength: 1, unit: "binary-ascii" }),
  fc.constantFrom("replace", "remove", "insert"),
);

describe("a signature", () => {
  it("names the message that it was made for", () => {
    const id = fc.stringMatching(/^[\x21-\x7e]{1,100}$/);
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), id, (said, given) => {
        expect(verify([secret], said, new Headers(sign(secret, said, given, NOW)))).toBe(given);
      }),
    );
  });

  it("is what any library of Standard Webhooks makes and takes", () => {
    expect(new Webhook(secret).verify(body, sign(secret, body, "msg_1", NOW))).toEqual(JSON.parse(body));
    const theirs = {
      "webhook-id": "msg_1",
      "webhook-timestamp": String(NOW / 1000),
      "webhook-signature": new Webhook(secret).sign("msg_1", new Date(NOW), body),
    };
    expect(sign(secret, body, "msg_1", NOW)).toEqual(theirs);
    expect(verify([secret], body, new Headers(theirs))).toBe("msg_1");
  });

  it("does not hold for another body", () => {
    fc.assert(
      fc.property(change, ([at, character, how]) => {
        const tampered = changed(body, at % body.length, character, how);
        fc.pre(tampered !== body);
        expect(verify([secret], tampered, signed())).toBeNull();
      }),
    );
  });

  it.each([
    ["another id", { "webhook-id": "msg_2" }],
    ["another time", { "webhook-timestamp": String(NOW / 1000 + 1) }],
    ["a time that is none", { "webhook-timestamp": "now" }],
    [
      "another version",
      { "webhook-signature": sign(secret, body, "msg_1", NOW)["webhook-signature"]?.replace("v1", "v2") },
    ],
    ["no signature in it", { "webhook-signature": "v1" }],
    ["an empty one", { "webhook-signature": "v1," }],
  ])("does not hold with %s", (_, header) => {
    expect(verify([secret], body, signed(header as Record<string, string>))).toBeNull();
  });

  it("holds where one of several is right, as while a secret is changed", () => {
    const both = `${signed({}, other).get("webhook-signature")} ${signed().get("webhook-signature")}`;
    expect(verify([secret], body, signed({ "webhook-signature": both }))).toBe("msg_1");
  });

  it("is checked with every secret, and holds with none that it was not made with", () => {
    expect(verify([other], body, signed())).toBeNull();
    expect(verify([], body, signed())).toBeNull();
    expect(verify([other, secret], body, signed())).toBe("msg_1");
    expect(verify([secret, other], body, signed({}, other))).toBe("msg_1");
  });

  it.each(["webhook-id", "webhook-timestamp", "webhook-signature"])("needs %s", (name) => {
    const headers = signed();
    headers.delete(name);
    expect(verify([secret], body, headers)).toBeNull();
  });

  it("has an id of 1 to 100 visible characters", () => {
    const withId = (id: string) => verify([secret], body, new Headers(sign(secret, body, id, NOW)));
    expect(withId("x".repeat(100))).toBe("x".repeat(100));
    for (const id of ["x".repeat(101), "a b", "a\tb", "é"]) expect(withId(id)).toBeNull();
  });

  it("holds for five minutes before and after its time, and not a second longer", () => {
    const at = (seconds: number) => {
      vi.setSystemTime(NOW + 1000 * seconds);
      return verify([secret], body, signed());
    };
    expect(TOLERANCE_SECONDS).toBe(300);
    for (const seconds of [-TOLERANCE_SECONDS, 0, TOLERANCE_SECONDS]) expect(at(seconds)).toBe("msg_1");
    for (const seconds of [-TOLERANCE_SECONDS - 1, TOLERANCE_SECONDS + 1, 86_400]) expect(at(seconds)).toBeNull();
  });
});

describe("a token", () => {
  const serverKey = "server-key";
  const hex = (length: number) => fc.stringMatching(new RegExp(`^[0-9a-f]{${length}}$`));
  const attempts: fc.Arbitrary<Attempt> = fc.record({
    tenant: fc.stringMatching(/^[a-z0-9][a-z0-9-]{1,39}$/),
    job: hex(32).map((id) => `ftjob-${id}`),
    attempt: fc.integer({ min: 1, max: 999_999_999 }),
  });
  const attempt: Attempt = { tenant: "acme", job: `ftjob-${"0123456789abcdef".repeat(2)}`, attempt: 1 };
  const token = makeToken(serverKey, attempt);

  it("names the attempt that it was made for", () => {
    expect(token).toMatch(/^gb_acme_ftjob-(0123456789abcdef){2}_1_[0-9a-f]{32}$/);
    fc.assert(
      fc.property(attempts, (of) => {
        expect(verifyToken([serverKey], makeToken(serverKey, of))).toEqual(of);
      }),
    );
  });

  it("is none with any character another one, left out or put in", () => {
    for (let at = 0; at < token.length; at++) {
      for (const character of "0123456789abcdefgz-_ \n") {
        if (token[at] !== character)
          expect(verifyToken([serverKey], changed(token, at, character, "replace"))).toBeNull();
        expect(verifyToken([serverKey], changed(token, at, character, "insert"))).toBeNull();
      }
      expect(verifyToken([serverKey], changed(token, at, "", "remove"))).toBeNull();
      if (/[a-z]/.test(token[at] as string))
        expect(verifyToken([serverKey], changed(token, at, token[at]?.toUpperCase() as string, "replace"))).toBeNull();
    }
    for (const more of [`${token}\n`, ` ${token}`, `${token}0`, ""]) expect(verifyToken([serverKey], more)).toBeNull();
  });

  it("does not pass for that of another tenant, job or attempt", () => {
    fc.assert(
      fc.property(attempts, attempts, (one, two) => {
        fc.pre(JSON.stringify(one) !== JSON.stringify(two));
        const mac = makeToken(serverKey, one).slice(-32);
        expect(verifyToken([serverKey], `gb_${two.tenant}_${two.job}_${two.attempt}_${mac}`)).toBeNull();
        expect(makeToken(serverKey, two).slice(-32)).not.toBe(mac);
      }),
    );
    const mac = token.slice(-32);
    for (const [tenant, n] of [
      ["acme", 11],
      ["acme", 2],
      ["acm", 1],
    ] as const) {
      expect(verifyToken([serverKey], `gb_${tenant}_${attempt.job}_${n}_${mac}`)).toBeNull();
    }
  });

  it("is checked with every server key, and holds with none that it was not made with", () => {
    expect(verifyToken(["new-key"], token)).toBeNull();
    expect(verifyToken([], token)).toBeNull();
    expect(verifyToken(["new-key", serverKey], token)).toEqual(attempt);
    expect(verifyToken([serverKey, "new-key"], token)).toEqual(attempt);
  });
});
