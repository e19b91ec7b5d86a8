/** The settings of a server on this machine, from its environment variables. */
import { randomBytes } from "node:crypto";
import { resolve } from "node:path";
import { makeBackbones } from "../backbones/index.ts";
import { textStatic } from "../backbones/node.ts";
import { UsageError } from "../lib/usage-error.ts";
import { parseOrigins } from "../webhooks/url.ts";
import type { ServeOptions } from "./runtime.ts";

/** Environment variables that become variables of the Worker, besides the secrets that BACKBONES names. */
const WORKER_VARIABLES = [
  "BACKBONES",
  "DEFAULT_BACKBONE",
  "PREVIOUS_SERVER_KEY",
  "BATCH_URL",
  "BATCH_SECRET",
  "PREVIOUS_BATCH_SECRET",
  "BATCH_SILENCE_SECONDS",
  "BATCH_TIMEOUT_SECONDS",
  "WEBHOOK_ORIGINS",
  "WEBHOOK_TIMEOUT_SECONDS",
];

/** Throws a UsageError if a setting is invalid. */
export function readServeOptions(env: NodeJS.ProcessEnv): ServeOptions {
  const { PORT = "8787", STATE_DIR = ".graft", ADMIN_KEY } = env;
  if (STATE_DIR === "") throw new UsageError("STATE_DIR is empty. Name a folder, or leave it unset for '.graft'.");
  return {
    port: readPort("PORT", PORT),
    stateDir: resolve(STATE_DIR),
    adminKey: ADMIN_KEY || randomBytes(24).toString("hex"),
    variables: readWorkerVariables(env),
  };
}

/**
 * The Worker's variables in an environment, with the secrets that BACKBONES names. Throws a UsageError if BACKBONES or
 * WEBHOOK_ORIGINS is invalid, because the Worker would start all the same.
 */
export function readWorkerVariables(env: NodeJS.ProcessEnv): Record<string, string> {
  if (parseOrigins(env.WEBHOOK_ORIGINS) === null)
    throw new UsageError(
      `WEBHOOK_ORIGINS is '${env.WEBHOOK_ORIGINS}', which is not a list such as 'http://127.0.0.1:9000'.`,
    );
  const names = [...WORKER_VARIABLES];
  const getSecret = (name: string) => {
    names.push(name);
    return env[name];
  };
  const backbones = makeBackbones(textStatic, env.BACKBONES, getSecret, undefined);
  if (!backbones.ok) throw new UsageError(`${backbones.failure.message}.`);
  return Object.fromEntries(names.flatMap((name) => (env[name] ? [[name, env[name]]] : [])));
}

export function readPort(name: string, value: string): number {
  if (/^\d{1,5}$/.test(value) && Number(value) <= 65_535) return Number(value);
  throw new UsageError(`${name} is '${value}', which is not a whole number from 0 to 65535.`);
}
