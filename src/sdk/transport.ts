/** Requests to the API: its base URL and key, JSON bodies, and its errors as exceptions. */
import type { ErrorBody } from "../api/errors.ts";
import { GraftError } from "./errors.ts";

export interface ClientOptions {
  /** Without a path, such as `http://127.0.0.1:8787`. */
  readonly baseUrl: string;
  /** A tenant's key; for `tenants`, the operator's. */
  readonly key: string;
  readonly fetch?: typeof fetch;
}

/** For calls that create or change something. The same key within 24 hours has its effect once. */
export interface RequestOptions {
  readonly idempotencyKey?: string;
}

type Query = Readonly<Record<string, string | number | boolean | undefined>>;

export interface Transport {
  /** The whole response. Throws a `GraftError` where its status is not 2xx. */
  request(method: string, path: string, init?: RequestInit, query?: Query): Promise<Response>;
  get<T>(path: string, query?: Query): Promise<T>;
  post<T>(path: string, body: unknown, options?: RequestOptions): Promise<T>;
  put<T>(path: string, body: unknown): Promise<T>;
  patch<T>(path: string, body: unknown): Promise<T>;
  delete<T>(path: string): Promise<T>;
}

export function createTransport({ baseUrl, key, fetch: send = fetch }: ClientOptions): Transport {
  async function request(method: string, path: string, init: RequestInit = {}, query: Query = {}): Promise<Response> {
    const url = new URL(trimSlashes(baseUrl) + path);
    for (const [name, value] of Object.entries(query)) if (value !== undefined) url.searchParams.set(name, `${value}`);
    const response = await send(url, { ...init, method, headers: { authorization: `Bearer ${key}`, ...init.headers } });
    if (response.ok) return response;
    const body = (await response.json().catch(() => null)) as { error?: Partial<ErrorBody> } | null;
    throw new GraftError(response, body?.error ?? {});
  }
  async function sendJson<T>(method: string, path: string, body: unknown, options: RequestOptions = {}): Promise<T> {
    const { idempotencyKey } = options;
    const headers = {
      "content-type": "application/json",
      ...(idempotencyKey === undefined ? {} : { "idempotency-key": idempotencyKey }),
    };
    return (await request(method, path, { headers, body: JSON.stringify(body) })).json() as Promise<T>;
  }
  return {
    request,
    get: async <T>(path: string, query?: Query) => (await request("GET", path, {}, query)).json() as Promise<T>,
    post: (path, body, options) => sendJson("POST", path, body, options),
    put: (path, body) => sendJson("PUT", path, body),
    patch: (path, body) => sendJson("PATCH", path, body),
    delete: async <T>(path: string) => (await request("DELETE", path)).json() as Promise<T>,
  };
}

export function trimSlashes(baseUrl: string): string {
  return baseUrl.replace(/\/+$/, "");
}

/** The path of one object of a collection, such as `/v1/heads/support`. */
export function resourcePath(collection: string, id: string): string {
  return `/v1/${collection}/${encodeURIComponent(id)}`;
}
