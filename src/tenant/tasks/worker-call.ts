/** A ledger's calls of the Worker: for work that takes more memory or time than its object has for all of the tenant. */
import { type Failure, ok, type Result } from "../../core/failure.ts";

/**
 * Posts to an internal route, with a token for this one piece of work. Answers the body, or the failure that it holds; a
 * call that was cut off may be tried again.
 */
export async function callWorker<T>(
  ctx: DurableObjectState,
  { path, token, timeout }: { readonly path: string; readonly token: string; readonly timeout: number },
): Promise<Result<T>> {
  try {
    const response = await ctx.exports.default.fetch(`http://graft${path}`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}` },
      signal: AbortSignal.timeout(timeout),
    });
    const body = (await response.json()) as T & { error?: Partial<Failure> };
    if (response.ok) return ok(body);
    const retryAfterHeader = response.headers.get("retry-after");
    const { code = "internal_error", message = "The work failed." } = body.error ?? {};
    const retry = retryAfterHeader === null ? {} : { retryAfter: Number(retryAfterHeader) };
    return { ok: false, failure: { code, message, ...retry } };
  } catch {
    return { ok: false, failure: { code: "internal_error", message: "The work was cut off.", retryAfter: 1 } };
  }
}
