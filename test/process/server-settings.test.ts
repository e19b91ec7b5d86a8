import { resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { UsageError } from "../../src/lib/usage-error.ts";
import { readServeOptions, readWorkerVariables } from "../../src/server/settings.ts";

const entry = {
  kind: "openai",
  id: "remote",
  base_url: "http://127.0.0.1:9/v1",
  model: "m",
  dimensions: 4,
  secret: "REMOTE_KEY",
};

test.each([
  [{ BACKBONES: JSON.stringify([entry]) }, "BACKBONES[0].secret: the secret REMOTE_KEY is not set"],
  [{ BACKBONES: "not a list" }, "BACKBONES: is not JSON"],
])("a wrong BACKBONES is refused: %j", (env, message) => {
  expect(() => readWorkerVariables(env)).toThrow(message);
});

describe("a wrong environment is refused", () => {
  test.each([
    [{ PORT: "abc" }, "PORT is 'abc', which is not a whole number from 0 to 65535."],
    [{ PORT: "99999" }, "PORT is '99999'"],
    [{ PORT: "-1" }, "PORT is '-1'"],
    [{ PORT: "1.5" }, "PORT is '1.5'"],
    [{ PORT: "" }, "PORT is ''"],
    [{ STATE_DIR: "" }, "STATE_DIR is empty."],
    [{ HOST: "" }, "HOST is empty."],
    [{ ADMIN_KEY: "a".repeat(23) }, "ADMIN_KEY has 23 characters, and needs at least 24."],
    [{ TRUSTED_PROXIES: "11" }, "TRUSTED_PROXIES is '11', which is not a whole number from 0 to 10."],
    [{ MIN_FREE_BYTES: "1e9" }, "MIN_FREE_BYTES is '1e9'"],
    [{ TLS_CERT: "cert.pem" }, "TLS_CERT and TLS_KEY are set together or not at all"],
    [{ TLS_CERT: "/dev/null", TLS_KEY: "/dev/null" }, "TLS_CERT '/dev/null' and TLS_KEY '/dev/null' cannot be used: "],
    [{ BACKBONES: "{" }, "BACKBONES: is not JSON."],
    [{ CORS_ORIGINS: "www.example.com" }, "CORS_ORIGINS is 'www.example.com', which is not a list"],
    [{ WEBHOOK_ORIGINS: "127.0.0.1:9000" }, "WEBHOOK_ORIGINS is '127.0.0.1:9000', which is not a list"],
  ])("%j", (env, message) => {
    expect(() => readServeOptions(env)).toThrow(message);
    expect(() => readServeOptions(env)).toThrow(UsageError);
  });

  test("and a good one, or none, is taken as it is", () => {
    expect(readServeOptions({})).toMatchObject({ port: 8787, stateDir: resolve(".graft"), variables: {} });
    const adminKey = "a".repeat(24);
    const env = { HOST: "0.0.0.0", PORT: "0", STATE_DIR: "/var/graft", ADMIN_KEY: adminKey, TRUSTED_PROXIES: "1" };
    expect(readServeOptions(env)).toEqual({
      host: "0.0.0.0",
      port: 0,
      tls: undefined,
      trustedProxies: 1,
      minFreeBytes: 67_108_864,
      stateDir: "/var/graft",
      adminKey,
      variables: {},
    });
  });
});
