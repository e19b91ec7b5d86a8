/** Browsers: preflights, origins of the configuration, and keys bound to origins. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test } from "vitest";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { expectError } from "./assertions.ts";

const PAGE = "https://www.example.com";
/** In CORS_ORIGINS of the tests. */
const OPERATOR_PAGE = "https://app.test";
const PREDICT = "/v1/heads/support/predict";
const input = { input: "please refund me" };

let key: string;
let pageKey: string;
beforeAll(async () => {
  key = (await tenantWithTickets()).key;
  const trained = await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets", method: "head" });
  expect(trained.status, trained.text).toBe(201);
  const body = { name: "page", scopes: ["predict"], origins: [PAGE, PAGE, "http://localhost:3000"] };
  const created = await call("POST", "/v1/api_keys", key, body);
  expect(created.json).toMatchObject({ origins: [PAGE, "http://localhost:3000"], scopes: ["predict"] });
  pageKey = created.json.secret;
});

const preflight = (path: string, origin = PAGE, method = "POST") =>
  call("OPTIONS", path, undefined, undefined, {
    origin,
    "access-control-request-method": method,
    "access-control-request-headers": "authorization,content-type",
  });

describe("a preflight", () => {
  test.each([PREDICT, "/v1/embeddings", "/v1/heads/none/predict"])("of %s is answered without a key", async (path) => {
    const { status, text, headers } = await preflight(path);
    expect([status, text]).toEqual([204, ""]);
    expect(Object.fromEntries(headers)).toMatchObject({
      "access-control-allow-origin": PAGE,
      "access-control-allow-methods": "POST",
      "access-control-allow-headers": "authorization,content-type",
      "access-control-max-age": "600",
      vary: "origin",
    });
    expect(headers.get("access-control-allow-credentials")).toBeNull();
  });

  test.each(["/v1/admin/tenants", "/v1/heads", "/v1/datasets", "/v1/api_keys", "/metrics", "/v1/heads/a/promote"])(
    "of %s is not",
    async (path) => {
      const { status, headers } = await preflight(path, OPERATOR_PAGE);
      expect([404, 405]).toContain(status);
      expect(headers.get("access-control-allow-origin")).toBeNull();
    },
  );

  test("is nothing else than OPTIONS with an origin and a method", async () => {
    expectError(await call("OPTIONS", PREDICT), 405, "method_not_allowed");
  });
});

describe("a prediction", () => {
  const predict = async (token: string | undefined, origin?: string) => {
    const answer = await call("POST", PREDICT, token, input, origin === undefined ? {} : { origin });
    return { answer, allowed: answer.headers.get("access-control-allow-origin") };
  };

  test.each([PAGE, "http://localhost:3000"])("with a bound key is made for a page of %s", async (origin) => {
    const { answer, allowed } = await predict(pageKey, origin);
    expect([answer.status, allowed]).toEqual([200, origin]);
    expect(answer.headers.get("access-control-expose-headers")).toContain("x-request-id");
  });

  test.each([undefined, "https://example.com", "http://www.example.com", `${PAGE}:8443`, "null"])(
    "with a bound key is refused for the origin %s, again and again",
    async (origin) => {
      for (let i = 0; i < 2; i++) {
        const { answer, allowed } = await predict(pageKey, origin);
        expectError(answer, 403, "origin_not_allowed");
        expect(allowed).toBeNull();
      }
    },
  );

  test("with a bound key is refused for a page of the configuration, which may read why", async () => {
    const { answer, allowed } = await predict(pageKey, OPERATOR_PAGE);
    expectError(answer, 403, "origin_not_allowed");
    expect(allowed).toBe(OPERATOR_PAGE);
  });

  test("with any other key is made for a page of the configuration, which may read errors as well", async () => {
    expect(await predict(key, OPERATOR_PAGE)).toMatchObject({ answer: { status: 200 }, allowed: OPERATOR_PAGE });
    expect(await predict(undefined, OPERATOR_PAGE)).toMatchObject({ answer: { status: 401 }, allowed: OPERATOR_PAGE });
    expect(await predict(key, PAGE)).toMatchObject({ answer: { status: 200 }, allowed: null });
    expect(await predict(key)).toMatchObject({ answer: { status: 200 }, allowed: null });
  });

  test("is all that a bound key may ask for, and all that a page may read", async () => {
    const fromPage = { origin: PAGE };
    for (const path of ["/v1/datasets", "/v1/api_keys"])
      expectError(await call("GET", path, pageKey, undefined, fromPage), 403, "missing_scope");
    const heads = await call("GET", "/v1/heads", pageKey, undefined, fromPage);
    expect([heads.status, heads.headers.get("access-control-allow-origin")]).toEqual([200, null]);
    const listed = await call("GET", "/v1/datasets", key, undefined, { origin: OPERATOR_PAGE });
    expect([listed.status, listed.headers.get("access-control-allow-origin")]).toEqual([200, null]);
  });
});

describe("a key's origins", () => {
  test("are listed, and null for a key of any caller", async () => {
    const { json } = await call("GET", "/v1/api_keys", key);
    expect(json.data.map(({ origins }: { origins: unknown }) => origins)).toEqual([
      [PAGE, "http://localhost:3000"],
      null,
    ]);
  });

  test("may be given by the operator", async () => {
    const { id } = await newTenant();
    const body = { name: "page", scopes: ["predict"], origins: [PAGE] };
    const created = await call("POST", `/v1/admin/tenants/${id}/api_keys`, env.ADMIN_KEY, body);
    expect(created.json).toMatchObject({ origins: [PAGE] });
  });

  test.each<[string, object, string]>([
    ["another scope", { scopes: ["predict", "train"], origins: [PAGE] }, "scopes"],
    ["no origins at all", { origins: [] }, "origins"],
    ["more than twenty", { origins: Array(21).fill(PAGE) }, "origins"],
    ["a path", { origins: [PAGE, `${PAGE}/shop`] }, "origins[1]"],
    ["a slash", { origins: [`${PAGE}/`] }, "origins[0]"],
    ["no scheme", { origins: ["www.example.com"] }, "origins[0]"],
    ["another scheme", { origins: ["ftp://www.example.com"] }, "origins[0]"],
    ["a star", { origins: ["*"] }, "origins[0]"],
    ["null", { origins: ["null"] }, "origins[0]"],
  ])("are refused with %s", async (_what, fields, param) => {
    const answer = await call("POST", "/v1/api_keys", key, { name: "page", scopes: ["predict"], ...fields });
    expectError(answer, 400, "invalid_parameter", param);
  });
});
