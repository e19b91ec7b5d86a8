/** The batch endpoint on Cloudflare Containers: one container for each job, which stops when it is idle. */
import { Container } from "@cloudflare/containers";
import { health } from "./protocol.ts";

/** The Worker's variables and secrets that a container gets, beside the secrets that BACKBONES names. */
export interface ContainerEnv {
  readonly GRAFT_URL?: string;
  readonly BATCH_SECRET?: string;
  readonly PREVIOUS_BATCH_SECRET?: string;
  readonly BACKBONES?: string;
}

const PORT = 8788;
/** The platform gives a container 15 minutes from SIGTERM to SIGKILL. */
const GRACE_SECONDS = 14 * 60;
const HEALTH_TIMEOUT_MS = 10_000;
/** When to ask again if the platform has no free container. */
const RETRY_AFTER_SECONDS = 15;

/** The environment of src/batch.ts. Workers AI cannot be reached from a container, so its backbones are left out. */
function toContainerEnv(env: ContainerEnv): Record<string, string> {
  const all = JSON.parse(env.BACKBONES?.trim() || "[]") as readonly { kind: string; secret?: string }[];
  const backbones = all.filter(({ kind }) => kind !== "workers_ai");
  const secrets = backbones.flatMap(({ secret }) => (secret === undefined ? [] : [secret]));
  const values: Record<string, unknown> = {
    BATCH_HOST: "0.0.0.0",
    BATCH_PORT: String(PORT),
    BATCH_GRACE_SECONDS: String(GRACE_SECONDS),
    BATCH_SECRET: env.BATCH_SECRET,
    PREVIOUS_BATCH_SECRET: env.PREVIOUS_BATCH_SECRET,
    GRAFT_URL: env.GRAFT_URL,
    BACKBONES: JSON.stringify(backbones),
    ...Object.fromEntries(secrets.map((name) => [name, (env as Record<string, unknown>)[name]])),
  };
  return Object.fromEntries(
    Object.entries(values).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );
}

export class BatchContainer extends Container<ContainerEnv> {
  override defaultPort = PORT;
  override pingEndpoint = "batch/health";
  override sleepAfter = "3m";
  override envVars = toContainerEnv(this.env);

  /** The endpoint's answer. If the platform has no free container, the answer of a full endpoint. */
  override async fetch(request: Request): Promise<Response> {
    const response = await super.fetch(request);
    // The container was started with the secret before the rotation. It stops here, so that the next call starts a new one.
    if (response.status === 401) await this.onActivityExpired();
    const isEndpointResponse = response.headers.get("content-type")?.startsWith("application/json");
    if (response.status !== 503 || isEndpointResponse) return response;
    await response.body?.cancel();
    return new Response(null, { status: 429, headers: { "retry-after": String(RETRY_AFTER_SECONDS) } });
  }

  /** A container without requests may still be at work, because the Worker sends a running attempt none. */
  override async onActivityExpired(): Promise<void> {
    if (!(await this.#isBusy())) await this.stop();
  }

  /** Whether attempts run in the container. One that does not answer counts as idle. */
  async #isBusy(): Promise<boolean> {
    try {
      const signal = AbortSignal.timeout(HEALTH_TIMEOUT_MS);
      const response = await this.ctx.container?.getTcpPort(PORT).fetch("http://batch/health", { signal });
      return (health.safeParse(await response?.json()).data?.running ?? 0) > 0;
    } catch {
      return false;
    }
  }
}
