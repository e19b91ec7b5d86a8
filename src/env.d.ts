declare namespace Cloudflare {
  /** The Worker's own exports, which `ctx.exports` calls. */
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
    /** The server that runs this Worker on a machine of its own: any request has the directory's file written anew. */
    readonly DIRECTORY_FILE?: Fetcher;
    /** The operator's key, for `/v1/admin`. */
    readonly ADMIN_KEY: string;
    /** Makes the MAC of every API key. The previous one stays valid, so that keys can be rotated. */
    readonly SERVER_KEY: string;
    readonly PREVIOUS_SERVER_KEY?: string;
    /** JSON: remote backbones, see docs/backbones.md. */
    readonly BACKBONES?: string;
    readonly DEFAULT_BACKBONE?: string;
    /** JSON: prices of computing in USD, see docs/deployment.md. */
    readonly PRICES?: string;
    /** The batch endpoint's URL. Without it and without BATCH there are no fine-tuning jobs. */
    readonly BATCH_URL?: string;
    /** The batch endpoint as containers, one per job, if BATCH_URL is not set. */
    readonly BATCH?: DurableObjectNamespace<import("./jobs/container.ts").BatchContainer>;
    /** The URL by which containers call this Worker. */
    readonly GRAFT_URL?: string;
    /** Signs the messages between the Worker and the batch endpoint: `whsec_…`. */
    readonly BATCH_SECRET?: string;
    readonly PREVIOUS_BATCH_SECRET?: string;
    /** Seconds without a message after which an attempt at a job is abandoned; 600 by default. */
    readonly BATCH_SILENCE_SECONDS?: string;
    /** Seconds that the batch endpoint may take to respond; 10 by default. */
    readonly BATCH_TIMEOUT_SECONDS?: string;
    /** Origins of web pages that may make predictions from a browser with any key, comma-separated. */
    readonly CORS_ORIGINS?: string;
    /** Origins that are not public but may receive webhooks, comma-separated: for machines of one's own. */
    readonly WEBHOOK_ORIGINS?: string;
    /** Seconds that a webhook endpoint may take to respond; 20 by default. */
    readonly WEBHOOK_TIMEOUT_SECONDS?: string;
    /** Seconds after which an isolate writes what it has counted of predictions; 10 by default, at most 20. */
    readonly COUNT_SECONDS?: string;
  }
}
