/** A request of a tenant, or of a job or policy of the tenant, without HTTP. */
export interface TenantRequest {
  readonly env: Cloudflare.Env;
  readonly tenant: string;
  /** Aborts when the client has gone. */
  readonly signal: AbortSignal;
  /** Keeps the isolate alive until the work has ended, also where the response is sent before. */
  readonly waitUntil: (work: Promise<unknown>) => void;
  /** Adds figures to the request's log line: never an input, never a secret. */
  readonly setLogFields: (fields: Record<string, number | string>) => void;
}
