/**
 * Tokens that are valid for one piece of work: `gb_<tenant>_<job>_<attempt>_…` for an attempt at a fine-tuning job,
 * `gr_<tenant>_<attempt>_<head>_…` for an attempt at retraining a head, `ge_<tenant>_<dataset>_…` for embedding a
 * dataset, `gt_<tenant>_<job>_…` for testing the version of a job. The last 32 hex digits are a MAC, by a server key, of all before them. It is checked before anything is looked up, as for
 * an API key.
 */
import { mac, verifyMac } from "../lib/hash.ts";

export interface Attempt {
  readonly tenant: string;
  readonly job: string;
  readonly attempt: number;
}

export interface Retraining {
  readonly tenant: string;
  readonly head: string;
  readonly attempt: number;
}

/** A dataset by its number. */
export interface Embedding {
  readonly tenant: string;
  readonly dataset: number;
}

/** The test of a job's version. */
export interface VersionTest {
  readonly tenant: string;
  readonly job: string;
}

const ATTEMPT_TOKEN = /^(gb_([a-z0-9][a-z0-9-]{1,39})_(ftjob-[0-9a-f]{32})_([1-9]\d{0,8}))_([0-9a-f]{32})$/;
const RETRAINING_TOKEN = /^(gr_([a-z0-9][a-z0-9-]{1,39})_([1-9]\d{0,8})_([a-z0-9][a-z0-9._-]{0,63}))_([0-9a-f]{32})$/;
const EMBEDDING_TOKEN = /^(ge_([a-z0-9][a-z0-9-]{1,39})_([1-9]\d{0,14}))_([0-9a-f]{32})$/;

const VERSION_TEST_TOKEN = /^(gt_([a-z0-9][a-z0-9-]{1,39})_(ftjob-[0-9a-f]{32}))_([0-9a-f]{32})$/;

export function makeAttemptToken(serverKey: string, { tenant, job, attempt }: Attempt): string {
  const body = `gb_${tenant}_${job}_${attempt}`;
  return `${body}_${mac(serverKey, body)}`;
}

/** The attempt that a token is for; null if none of the server keys made the token. */
export function verifyAttemptToken(serverKeys: readonly string[], token: string): Attempt | null {
  const [, body, tenant, job, attempt, given] = ATTEMPT_TOKEN.exec(token) ?? [];
  if (body === undefined || tenant === undefined || job === undefined || given === undefined) return null;
  return verifyMac(serverKeys, body, given) ? { tenant, job, attempt: Number(attempt) } : null;
}

export function makeRetrainingToken(serverKey: string, { tenant, head, attempt }: Retraining): string {
  const body = `gr_${tenant}_${attempt}_${head}`;
  return `${body}_${mac(serverKey, body)}`;
}

/** The retraining that a token is for; null if none of the server keys made the token. */
export function verifyRetrainingToken(serverKeys: readonly string[], token: string): Retraining | null {
  const [, body, tenant, attempt, head, given] = RETRAINING_TOKEN.exec(token) ?? [];
  if (body === undefined || tenant === undefined || head === undefined || given === undefined) return null;
  return verifyMac(serverKeys, body, given) ? { tenant, head, attempt: Number(attempt) } : null;
}

export function makeEmbeddingToken(serverKey: string, { tenant, dataset }: Embedding): string {
  const body = `ge_${tenant}_${dataset}`;
  return `${body}_${mac(serverKey, body)}`;
}

/** The dataset that a token is for; null if none of the server keys made the token. */
export function verifyEmbeddingToken(serverKeys: readonly string[], token: string): Embedding | null {
  const [, body, tenant, dataset, given] = EMBEDDING_TOKEN.exec(token) ?? [];
  if (body === undefined || tenant === undefined || dataset === undefined || given === undefined) return null;
  return verifyMac(serverKeys, body, given) ? { tenant, dataset: Number(dataset) } : null;
}

export function makeVersionTestToken(serverKey: string, { tenant, job }: VersionTest): string {
  const body = `gt_${tenant}_${job}`;
  return `${body}_${mac(serverKey, body)}`;
}

/** The test that a token is for; null if none of the server keys made the token. */
export function verifyVersionTestToken(serverKeys: readonly string[], token: string): VersionTest | null {
  const [, body, tenant, job, given] = VERSION_TEST_TOKEN.exec(token) ?? [];
  if (body === undefined || tenant === undefined || job === undefined || given === undefined) return null;
  return verifyMac(serverKeys, body, given) ? { tenant, job } : null;
}
