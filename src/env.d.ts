declare namespace Cloudflare {
  /** What the Worker's own parts can be called by, over `ctx.exports`. */
  interface GlobalProps {
    mainModule: typeof import("./worker.ts");
  }
  /** The Worker's bindings, variables and secrets, as wrangler.toml declares them. */
  interface Env {
    readonly KV: KVNamespace;
    readonly BUCKET: R2Bucket;
    readonly TENANT: DurableObjectNamespace<import("./tenant/tenant.ts").Tenant>;
    readonly DIRECTORY: DurableObjectNamespace<import("./tenant/directory.ts").Directory>;
    readonly RATE_LIMIT: RateLimit;
    readonly AI?: Ai;
    /** The operator's key, for `/v1/admin`. */
    readonly ADMIN_KEY: string;
    /** Makes the MAC of every API key. The previous one stays valid, so that keys can be rotated. */
    readonly SERVER_KEY: string;
    readonly PREVIOUS_SERVER_KEY?: string;
    /** JSON: remote backbones, see docs/backbones.md. */
    readonly BACKBONES?: string;
    readonly DEFAULT_BACKBONE?: string;
    /** Where the batch endpoint is; without it, or BATCH, there are no fine-tuning jobs. */
    readonly BATCH_URL?: string;
    /** The batch endpoint in containers, one a job, where BATCH_URL is not set. */
    readonly BATCH?: DurableObjectNamespace<import("./jobs/container.ts").BatchContainer>;
    /** Where containers reach this Worker. */
    readonly GRAFT_URL?: string;
    /** Signs what the Worker and the batch endpoint tell each other: `whsec_…`. */
    readonly BATCH_SECRET?: string;
    readonly PREVIOUS_BATCH_SECRET?: string;
    /** Seconds after which a silent attempt at a job is given up; 600 where it is not set. */
    readonly BATCH_SILENCE_SECONDS?: string;
    /** Seconds that the batch endpoint has to answer; 10 where it is not set. */
    readonly BATCH_TIMEOUT_SECONDS?: string;
    /** Origins to which webhooks may go though they are not public, comma-separated: for machines of one's own. */
    readonly WEBHOOK_ORIGINS?: string;
    /** Seconds that a webhook endpoint has to answer; 20 where it is not set. */
    readonly WEBHOOK_TIMEOUT_SECONDS?: string;
  }
}
