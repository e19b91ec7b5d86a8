import type { ErrorBody } from "../api/errors.ts";

/** An error that the API answered. `code` is from the closed list in docs/errors/. */
export class GraftError extends Error {
  override readonly name = "GraftError";
  readonly status: number;
  /** null where something between the client and the API answered. */
  readonly code: ErrorBody["code"] | null;
  /** The path into the request of what is wrong, such as `examples[3].label`. */
  readonly param: string | null;
  readonly requestId: string | null;
  /** In seconds, where trying again may help. */
  readonly retryAfter: number | null;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(response: Response, error: Partial<ErrorBody>) {
    super(error.message ?? `HTTP ${response.status} without an error of the API's own.`);
    this.status = response.status;
    this.code = error.code ?? null;
    this.param = error.param ?? null;
    this.requestId = error.request_id ?? response.headers.get("x-request-id");
    const seconds = response.headers.get("retry-after");
    this.retryAfter = seconds === null ? null : Number(seconds);
    this.details = error.details ?? {};
  }
}
