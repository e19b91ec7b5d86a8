/** Wrong operator keys: throttled by the client's address, and logged. */
import { env } from "cloudflare:workers";
import { afterEach, expect, test, vi } from "vitest";
import { call } from "./api.ts";
import { expectError } from "./assertions.ts";

const WRONG = "wrong-operator-key";

const list = (key: string | undefined, address?: string) =>
  call("GET", "/v1/admin/tenants", key, undefined, address === undefined ? {} : { "cf-connecting-ip": address });

async function guess(address: string | undefined, times: number): Promise<void> {
  for (let i = 0; i < times; i++) expectError(await list(`${WRONG}${i}`, address), 401, "invalid_api_key");
}

afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

test("after ten wrong keys in a minute an address waits for the rest of it, with the right key as well", async () => {
  vi.spyOn(console, "error").mockImplementation(() => undefined);
  await guess("203.0.113.7", 10);
  for (const key of [WRONG, env.ADMIN_KEY]) {
    const answer = await list(key, "203.0.113.7");
    expectError(answer, 429, "rate_limited");
    expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(30);
    expect(Number(answer.headers.get("retry-after"))).toBeLessThanOrEqual(60);
  }
  expectError(await list(undefined, "203.0.113.7"), 401, "invalid_api_key");
  expect((await list(env.ADMIN_KEY, "203.0.113.8")).status).toBe(200);

  vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 60_000 });
  expect((await list(env.ADMIN_KEY, "203.0.113.7")).status).toBe(200);
  await guess("203.0.113.7", 10);
});

test("the addresses of one IPv6 network count as one", async () => {
  vi.spyOn(console, "error").mockImplementation(() => undefined);
  for (let i = 0; i < 10; i++) await guess(`2001:db8:1:2::${i}`, 1);
  expectError(await list(env.ADMIN_KEY, "2001:db8:1:2:ffff::1"), 429, "rate_limited");
  expect((await list(env.ADMIN_KEY, "2001:db8:1:3::1")).status).toBe(200);
});

test("a request without an address, or without a key, is not counted", async () => {
  vi.spyOn(console, "error").mockImplementation(() => undefined);
  await guess(undefined, 12);
  expect((await list(env.ADMIN_KEY)).status).toBe(200);
  for (let i = 0; i < 12; i++) expectError(await list(undefined, "203.0.113.9"), 401, "invalid_api_key");
  expect((await list(env.ADMIN_KEY, "203.0.113.9")).status).toBe(200);
});

test("each wrong key is logged with its address, and without the key", async () => {
  const log = vi.spyOn(console, "error").mockImplementation(() => undefined);
  const answer = await list(WRONG, "203.0.113.10");
  const lines = log.mock.calls.map(([line]) => JSON.parse(String(line)));
  expect(lines).toEqual([
    { request_id: answer.headers.get("x-request-id"), event: "wrong_operator_key", address: "203.0.113.10" },
  ]);
  expect((await list(env.ADMIN_KEY, "203.0.113.10")).status).toBe(200);
  expect(log).toHaveBeenCalledTimes(1);
});
