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
    [{ BACKBONES: "{" }, "BACKBONES: is not JSON."],
    [{ WEBHOOK_ORIGINS: "127.0.0.1:9000" }, "WEBHOOK_ORIGINS is '127.0.0.1:9000', which is not a list"],
  ])("%j", (env, message) => {
    expect(() => readServeOptions(env)).toThrow(message);
    expect(() => readServeOptions(env)).toThrow(UsageError);
  });

  test("and a good one, or none, is taken as it is", () => {
    expect(readServeOptions({})).toMatchObject({ port: 8787, stateDir: resolve(".graft"), variables: {} });
    expect(readServeOptions({ PORT: "0", STATE_DIR: "/var/graft", ADMIN_KEY: "a" })).toEqual({
      port: 0,
      stateDir: "/var/graft",
      adminKey: "a",
      variables: {},
    });
  });
});
