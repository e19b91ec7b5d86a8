/** The settings of a batch endpoint, read from the environment. */
import { resolve } from "node:path";
import { makeBackbones } from "../../backbones/index.ts";
import { bundledBackbones } from "../../backbones/node.ts";
import type { Cost } from "../../core/linear/types.ts";
import { MAX_SINGLE_UPLOAD_BYTES } from "../../jobs/protocol.ts";
import { UsageError } from "../../lib/usage-error.ts";
import { defaultRetryPolicy, type RetryPolicy } from "../client/worker-client.ts";

export interface Settings {
  readonly host: string;
  readonly port: number;
  /** The first signs messages. Messages that any of them signed are accepted. */
  readonly secrets: readonly [string, ...string[]];
  /** The Worker's address, without a slash at its end. */
  readonly graftUrl: string;
  /** How many attempts run at once, and how many at small jobs beside these. */
  readonly capacity: number;
  readonly smallCapacity: number;
  readonly workDir: string;
  /** The bytes that an attempt may hold in memory, and the operations of one of its trainings. */
  readonly budget: Cost;
  readonly graceMs: number;
  readonly backbones: BackboneSettings;
  readonly retryPolicy: RetryPolicy;
  /** A larger artifact is uploaded in parts. */
  readonly maxSingleUploadBytes: number;
  /** The operations of a training of layers after which its state is saved, at the end of an epoch. */
  readonly operationsPerSave: number;
}

/** About 40 s of training. A state has up to some hundred megabytes. */
const OPERATIONS_PER_SAVE = 1e12;

/** The arguments of `makeBackbones`. */
export interface BackboneSettings {
  readonly configuration: string | undefined;
  readonly secrets: Readonly<Record<string, string>>;
}

/** The settings in an environment; throws a UsageError if one is wrong or missing. */
export function readSettings(env: NodeJS.ProcessEnv): Settings {
  // The second is this variable's former name.
  const previousName = env.PREVIOUS_BATCH_SECRET ? "PREVIOUS_BATCH_SECRET" : "BATCH_PREVIOUS_SECRET";
  const previous = env[previousName] ? [parseSecret(previousName, env[previousName])] : [];
  return {
    host: env.BATCH_HOST || "127.0.0.1",
    port: parseInteger("BATCH_PORT", env.BATCH_PORT, 8788, 0, 65_535),
    secrets: [parseSecret("BATCH_SECRET", env.BATCH_SECRET), ...previous],
    graftUrl: parseUrl("GRAFT_URL", env.GRAFT_URL),
    capacity: parseInteger("BATCH_JOBS", env.BATCH_JOBS, 1, 1, 256),
    smallCapacity: parseInteger("BATCH_SMALL_JOBS", env.BATCH_SMALL_JOBS, 1, 0, 256),
    workDir: resolve(env.WORK_DIR || ".graft-batch"),
    budget: {
      bytes: parseInteger("BATCH_MEMORY_BYTES", env.BATCH_MEMORY_BYTES, 1.5e9, 1e6, 4e9),
      operations: parseInteger("BATCH_OPERATIONS", env.BATCH_OPERATIONS, 1e14, 1e6, Number.MAX_SAFE_INTEGER),
    },
    graceMs: 1000 * parseInteger("BATCH_GRACE_SECONDS", env.BATCH_GRACE_SECONDS, 30, 0, 3600),
    backbones: readBackboneSettings(env),
    retryPolicy: defaultRetryPolicy,
    maxSingleUploadBytes: MAX_SINGLE_UPLOAD_BYTES,
    operationsPerSave: OPERATIONS_PER_SAVE,
  };
}

/** A whole number, which may be written as 1.5e9. */
function parseInteger(name: string, value: string | undefined, fallback: number, min: number, max: number): number {
  if (value === undefined || value === "") return fallback;
  const number = /^\d+(\.\d+)?(e\d+)?$/i.test(value) ? Number(value) : Number.NaN;
  if (Number.isInteger(number) && number >= min && number <= max) return number;
  throw new UsageError(`${name} is '${value}', which is not a whole number from ${min} to ${max}.`);
}

function parseSecret(name: string, value: string | undefined): string {
  if (!value) throw new UsageError(`${name} is missing: the secret that the Worker shares, 'whsec_' and base64.`);
  const [, base64 = ""] = /^whsec_([A-Za-z0-9+/]+={0,2})$/.exec(value) ?? [];
  if (Buffer.from(base64, "base64").length >= 24) return value;
  throw new UsageError(`${name} is not a secret: 'whsec_' and at least 24 bytes as base64.`);
}

function parseUrl(name: string, value: string | undefined): string {
  if (!value) throw new UsageError(`${name} is missing: where the Worker is, such as http://127.0.0.1:8787.`);
  const parsed = URL.canParse(value) ? new URL(value) : null;
  if (
    parsed &&
    /^https?:$/.test(parsed.protocol) &&
    parsed.username + parsed.password + parsed.search + parsed.hash === ""
  )
    return parsed.href.replace(/\/+$/, "");
  throw new UsageError(`${name} is not an http: or https: URL without user, query and fragment.`);
}

/** The value of BACKBONES, and the secrets that it names. */
function readBackboneSettings(env: NodeJS.ProcessEnv): BackboneSettings {
  const secrets: Record<string, string> = {};
  const table = makeBackbones(
    bundledBackbones,
    env.BACKBONES,
    (name) => {
      const value = env[name];
      if (value) secrets[name] = value;
      return value;
    },
    undefined,
  );
  if (!table.ok) throw new UsageError(`${table.failure.message}.`);
  return { configuration: env.BACKBONES, secrets };
}
