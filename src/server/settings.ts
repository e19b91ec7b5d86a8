/** The settings of a server on this machine, from its environment variables. */
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { createSecureContext } from "node:tls";
import { makeBackbones } from "../backbones/index.ts";
import { bundledBackbones } from "../backbones/node.ts";
import { parsePrices } from "../core/prices.ts";
import { UsageError } from "../lib/usage-error.ts";
import { parseOrigins } from "../webhooks/url.ts";
import type { ServeOptions } from "./options.ts";

/** Environment variables that become variables of the Worker, besides the secrets that BACKBONES names. */
const WORKER_VARIABLES = [
  "BACKBONES",
  "DEFAULT_BACKBONE",
  "PRICES",
  "PREVIOUS_SERVER_KEY",
  "BATCH_URL",
  "CORS_ORIGINS",
  "BATCH_SECRET",
  "PREVIOUS_BATCH_SECRET",
  "BATCH_SILENCE_SECONDS",
  "BATCH_TIMEOUT_SECONDS",
  "WEBHOOK_ORIGINS",
  "WEBHOOK_TIMEOUT_SECONDS",
];

/** Shorter keys can be guessed, or chosen by someone who means to try. */
const MIN_ADMIN_KEY_LENGTH = 24;

/** Throws a UsageError if a setting is invalid. */
export function readServeOptions(env: NodeJS.ProcessEnv): ServeOptions {
  const { HOST = "127.0.0.1", PORT = "8787", ADMIN_KEY } = env;
  if (HOST === "") throw new UsageError("HOST is empty. Name an address, or leave it unset for 127.0.0.1.");
  if (ADMIN_KEY && ADMIN_KEY.length < MIN_ADMIN_KEY_LENGTH)
    throw new UsageError(
      `ADMIN_KEY has ${ADMIN_KEY.length} characters, and needs at least ${MIN_ADMIN_KEY_LENGTH}. Make one with 'openssl rand -hex 32'.`,
    );
  return {
    host: HOST,
    port: readPort("PORT", PORT),
    tls: readTls(env),
    trustedProxies: readInteger("TRUSTED_PROXIES", env.TRUSTED_PROXIES ?? "0", 10),
    minFreeBytes: readInteger("MIN_FREE_BYTES", env.MIN_FREE_BYTES ?? String(64 * 2 ** 20), Number.MAX_SAFE_INTEGER),
    stateDir: readStateDir(env),
    adminKey: ADMIN_KEY || randomBytes(24).toString("hex"),
    variables: readWorkerVariables(env),
  };
}

/** The folder of the state. Throws a UsageError if it has no name. */
export function readStateDir({ STATE_DIR = ".graft" }: NodeJS.ProcessEnv): string {
  if (STATE_DIR === "") throw new UsageError("STATE_DIR is empty. Name a folder, or leave it unset for '.graft'.");
  return resolve(STATE_DIR);
}

/** The files of a certificate and its key. Throws a UsageError if one is named without the other, or they do not fit. */
function readTls({ TLS_CERT: cert, TLS_KEY: key }: NodeJS.ProcessEnv): ServeOptions["tls"] {
  if (!cert && !key) return undefined;
  if (!cert || !key) throw new UsageError("TLS_CERT and TLS_KEY are set together or not at all: files in PEM.");
  try {
    createSecureContext({ cert: readFileSync(cert), key: readFileSync(key) });
  } catch (error) {
    throw new UsageError(`TLS_CERT '${cert}' and TLS_KEY '${key}' cannot be used: ${(error as Error).message}.`);
  }
  return { cert, key };
}

/**
 * The Worker's variables in an environment, with the secrets that BACKBONES names. Throws a UsageError if BACKBONES,
 * PRICES or a list of origins is invalid, because the Worker would start all the same.
 */
export function readWorkerVariables(env: NodeJS.ProcessEnv): Record<string, string> {
  for (const name of ["WEBHOOK_ORIGINS", "CORS_ORIGINS"]) {
    if (parseOrigins(env[name]) === null)
      throw new UsageError(`${name} is '${env[name]}', which is not a list such as 'http://127.0.0.1:9000'.`);
  }
  const names = [...WORKER_VARIABLES];
  const getSecret = (name: string) => {
    names.push(name);
    return env[name];
  };
  const backbones = makeBackbones(bundledBackbones, env.BACKBONES, getSecret, undefined);
  if (!backbones.ok) throw new UsageError(`${backbones.failure.message}.`);
  const prices = parsePrices(env.PRICES);
  if (!prices.ok) throw new UsageError(`${prices.failure.message}.`);
  return Object.fromEntries(names.flatMap((name) => (env[name] ? [[name, env[name]]] : [])));
}

export function readPort(name: string, value: string): number {
  return readInteger(name, value, 65_535);
}

function readInteger(name: string, value: string, max: number): number {
  if (/^\d{1,16}$/.test(value) && Number(value) <= max) return Number(value);
  throw new UsageError(`${name} is '${value}', which is not a whole number from 0 to ${max}.`);
}
