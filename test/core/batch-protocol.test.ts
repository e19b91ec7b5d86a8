/** Who said a message to or from the batch endpoint, and of which attempt: signatures and tokens. */
import fc from "fast-check";
import { Webhook } from "standardwebhooks";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { sign, TOLERANCE_SECONDS, verify } from "../../src/jobs/sign.ts";
import { type Attempt, makeAttemptToken, verifyAttemptToken } from "../../src/jobs/token.ts";

const makeSecret = (text: string) => `whsec_${Buffer.from(text).toString("base64")}`;
const secret = makeSecret("a secret of 24 bytes ...");
const otherSecret = makeSecret("another secret of 24 ...");
const NOW = Date.parse("2026-01-01T00:00:00Z");
const body = JSON.stringify({ type: "heartbeat", message: "né ü 返金" });
const signHeaders = (changes: Record<string, string> = {}, signingSecret = secret, now = NOW) =>
  new Headers({ ...sign(signingSecret, body, "msg_1", now), ...changes });

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["Date"], now: NOW });
});
afterEach(() => {
  vi.useRealTimers();
});

/** A text with one character another one, left out, or put in. */
function changeCharacter(
  text: string,
  position: number,
  character: string,
  edit: "replace" | "remove" | "insert",
): string {
  const restStart = edit === "insert" ? position : position + 1;
  return text.slice(0, position) + (edit === "remove" ? "" : character) + text.slice(restStart);
}
const characterEdits = fc.tuple(
  fc.nat(),
  fc.string({ minLength: 1, maxLength: 1, unit: "binary-ascii" }),
  fc.constantFrom("replace", "remove", "insert"),
);

describe("a signature", () => {
  it("names the message that it was made for", () => {
    const id = fc.stringMatching(/^[\x21-\x7e]{1,100}$/);
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), id, (content, messageId) => {
        expect(verify([secret], content, new Headers(sign(secret, content, messageId, NOW)))).toBe(messageId);
      }),
    );
  });

  it("is what any library of Standard Webhooks makes and takes", () => {
    expect(new Webhook(secret).verify(body, sign(secret, body, "msg_1", NOW))).toEqual(JSON.parse(body));
    const librarySignature = {
      "webhook-id": "msg_1",
      "webhook-timestamp": String(NOW / 1000),
      "webhook-signature": new Webhook(secret).sign("msg_1", new Date(NOW), body),
    };
    expect(sign(secret, body, "msg_1", NOW)).toEqual(librarySignature);
    expect(verify([secret], body, new Headers(librarySignature))).toBe("msg_1");
  });

  it("does not hold for another body", () => {
    fc.assert(
      fc.property(characterEdits, ([position, character, edit]) => {
        const tamperedBody = changeCharacter(body, position % body.length, character, edit);
        fc.pre(tamperedBody !== body);
        expect(verify([secret], tamperedBody, signHeaders())).toBeNull();
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
    expect(verify([secret], body, signHeaders(header as Record<string, string>))).toBeNull();
  });

  it("holds where one of several is right, as while a secret is changed", () => {
    const bothSignatures = `${signHeaders({}, otherSecret).get("webhook-signature")} ${signHeaders().get("webhook-signature")}`;
    expect(verify([secret], body, signHeaders({ "webhook-signature": bothSignatures }))).toBe("msg_1");
  });

  it("is checked with every secret, and holds with none that it was not made with", () => {
    expect(verify([otherSecret], body, signHeaders())).toBeNull();
    expect(verify([], body, signHeaders())).toBeNull();
    expect(verify([otherSecret, secret], body, signHeaders())).toBe("msg_1");
    expect(verify([secret, otherSecret], body, signHeaders({}, otherSecret))).toBe("msg_1");
  });

  it.each(["webhook-id", "webhook-timestamp", "webhook-signature"])("needs %s", (name) => {
    const headers = signHeaders();
    headers.delete(name);
    expect(verify([secret], body, headers)).toBeNull();
  });

  it("has an id of 1 to 100 visible characters", () => {
    const withId = (id: string) => verify([secret], body, new Headers(sign(secret, body, id, NOW)));
    expect(withId("x".repeat(100))).toBe("x".repeat(100));
    for (const id of ["x".repeat(101), "a b", "a\tb", "é"]) expect(withId(id)).toBeNull();
  });

  it("holds for five minutes before and after its time, and not a second longer", () => {
    const verifyAt = (seconds: number) => {
      vi.setSystemTime(NOW + 1000 * seconds);
      return verify([secret], body, signHeaders());
    };
    expect(TOLERANCE_SECONDS).toBe(300);
    for (const seconds of [-TOLERANCE_SECONDS, 0, TOLERANCE_SECONDS]) expect(verifyAt(seconds)).toBe("msg_1");
    for (const seconds of [-TOLERANCE_SECONDS - 1, TOLERANCE_SECONDS + 1, 86_400]) expect(verifyAt(seconds)).toBeNull();
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
  const token = makeAttemptToken(serverKey, attempt);

  it("names the attempt that it was made for", () => {
    expect(token).toMatch(/^gb_acme_ftjob-(0123456789abcdef){2}_1_[0-9a-f]{32}$/);
    fc.assert(
      fc.property(attempts, (attempt) => {
        expect(verifyAttemptToken([serverKey], makeAttemptToken(serverKey, attempt))).toEqual(attempt);
      }),
    );
  });

  it("is none with any character another one, left out or put in", () => {
    for (let position = 0; position < token.length; position++) {
      for (const character of "0123456789abcdefgz-_ \n") {
        if (token[position] !== character)
          expect(verifyAttemptToken([serverKey], changeCharacter(token, position, character, "replace"))).toBeNull();
        expect(verifyAttemptToken([serverKey], changeCharacter(token, position, character, "insert"))).toBeNull();
      }
      expect(verifyAttemptToken([serverKey], changeCharacter(token, position, "", "remove"))).toBeNull();
      if (/[a-z]/.test(token[position] as string))
        expect(
          verifyAttemptToken(
            [serverKey],
            changeCharacter(token, position, token[position]?.toUpperCase() as string, "replace"),
          ),
        ).toBeNull();
    }
    for (const malformed of [`${token}\n`, ` ${token}`, `${token}0`, ""])
      expect(verifyAttemptToken([serverKey], malformed)).toBeNull();
  });

  it("does not pass for that of another tenant, job or attempt", () => {
    fc.assert(
      fc.property(attempts, attempts, (one, two) => {
        fc.pre(JSON.stringify(one) !== JSON.stringify(two));
        const mac = makeAttemptToken(serverKey, one).slice(-32);
        expect(verifyAttemptToken([serverKey], `gb_${two.tenant}_${two.job}_${two.attempt}_${mac}`)).toBeNull();
        expect(makeAttemptToken(serverKey, two).slice(-32)).not.toBe(mac);
      }),
    );
    const mac = token.slice(-32);
    for (const [tenant, n] of [
      ["acme", 11],
      ["acme", 2],
      ["acm", 1],
    ] as const) {
      expect(verifyAttemptToken([serverKey], `gb_${tenant}_${attempt.job}_${n}_${mac}`)).toBeNull();
    }
  });

  it("is checked with every server key, and holds with none that it was not made with", () => {
    expect(verifyAttemptToken(["new-key"], token)).toBeNull();
    expect(verifyAttemptToken([], token)).toBeNull();
    expect(verifyAttemptToken(["new-key", serverKey], token)).toEqual(attempt);
    expect(verifyAttemptToken([serverKey, "new-key"], token)).toEqual(attempt);
  });
});
