/** The batch endpoint on Cloudflare Containers: one container a job, which sleeps once it has nothing to do. */
import { Container } from "@cloudflare/containers";
import { health } from "./protocol.ts";

/** What a container is told of the Worker's variables and secrets, beside those that BACKBONES names. */
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
/** When to ask again, where no container is to be had. */
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

  /** Answers as the endpoint does; where the platform has no container left, as an endpoint that is full. */
  override async fetch(request: Request): Promise<Response> {
    const response = await super.fetch(request);
    // It was started before the secret was exchanged, and every call would keep it awake: the next one starts it anew.
    if (response.status === 401) await this.onActivityExpired();
    const isEndpointResponse = response.headers.get("content-type")?.startsWith("application/json");
    if (response.status !== 503 || isEndpointResponse) return response;
    await response.body?.cancel();
    return new Response(null, { status: 429, headers: { "retry-after": String(RETRY_AFTER_SECONDS) } });
  }

  /** The Worker asks nothing of an attempt that runs: a container without requests may still be at work. */
  override async onActivityExpired(): Promise<void> {
    if (!(await this.#isBusy())) await this.stop();
  }

  /** Whether attempts run in it. One that does not answer is none that works. */
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
