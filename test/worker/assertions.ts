import { expect } from "vitest";
import type { ErrorCode } from "../../src/core/failure.ts";
import { type ApiResponse, call, newTenant } from "./api.ts";

/** The answer is this error; its message says something, and `param` where it was. */
export function expectError(answer: ApiResponse, status: number, code: ErrorCode, param: string | null = null): void {
  expect(answer.json?.error, answer.text).toMatchObject({ code, param });
  expect(answer.status).toBe(status);
  expect(answer.json.error.message.length).toBeGreaterThan(10);
  if (status === 401) expect(answer.headers.get("www-authenticate")).toBe("Bearer");
}

/** A tenant's further key with these scopes alone. */
export async function createKey(key: string, ...scopes: string[]): Promise<string> {
  const answer = await call("POST", "/v1/api_keys", key, { name: scopes.join(" "), scopes });
  expect(answer.status, answer.text).toBe(201);
  return answer.json.secret;
}

/** The body without the request's id, which differs in every answer. */
export function withoutRequestId(answer: ApiResponse): unknown {
  const { request_id: _id, ...error } = answer.json.error;
  return error;
}

/**
 * What every route of a tenant must refuse: no key or a wrong one, and keys without its scope. Where the path names an
 * object of `owner`, another tenant's key finds nothing, just as it would were there no such object anywhere.
 */
export async function expectAuthorization(
  owner: string,
  scope: "predict" | "train" | "manage" | null,
  method: string,
  path: string,
  body?: unknown,
): Promise<void> {
  expectError(await call(method, path, undefined, body), 401, "invalid_api_key");
  expectError(await call(method, path, `gk_nobody_${"0".repeat(64)}`, body), 401, "invalid_api_key");
  if (scope === null) return;
  const otherScopes = ["predict", "train", "manage"].filter((other) => other !== scope);
  expectError(await call(method, path, await createKey(owner, ...otherScopes), body), 403, "missing_scope");
}

/** Another tenant's key finds nothing at `path`; the answer is the same after the owner deletes it by `remove`. */
export async function expectHidden(
  method: string,
  path: string,
  body: unknown,
  remove: () => Promise<unknown>,
): Promise<void> {
  const otherTenant = await newTenant();
  const beforeDeletion = await call(method, path, otherTenant.key, body);
  expectError(beforeDeletion, 404, "not_found", beforeDeletion.json?.error?.param ?? null);
  await remove();
  const afterDeletion = await call(method, path, otherTenant.key, body);
  expect(withoutRequestId(afterDeletion)).toEqual(withoutRequestId(beforeDeletion));
}
