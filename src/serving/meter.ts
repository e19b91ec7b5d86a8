/**
 * Counts what an isolate predicts, by tenant and version, and writes it to the tenants' ledgers. Counting does no I/O: the
 * first prediction of a tenant that is not yet written has the isolate write its counts some seconds later, as an isolate may
 * never see another request. What the ledger did not take is sent again, with the same number, so that it counts once.
 */
import { labelKey, noInputs, scoreBin } from "../core/evaluation/input-counts.ts";
import { type Agreement, noTraffic, type TrafficCounts } from "../core/lifecycle/traffic.ts";
import { newId } from "../lib/id.ts";
import type { ServedHead } from "../tenant/heads/served-heads.ts";
import type { CountBatch, VersionCounts } from "../tenant/heads/traffic-counts.ts";
import { getLedger } from "../tenant/tenant.ts";
import type { TenantRequest } from "./tenant-request.ts";
import { MAX_DELAY_MS, waitToWrite } from "./write-delay.ts";

const MAX_TRIES = 3;
const RETRY_MS = 2_000;
/** A batch that the ledger has not taken for so long is dropped: the ledger forgets the numbers of batches after an hour. */
const MAX_BATCH_AGE_MS = 600_000;
/** Of an isolate, until they are written: a few megabytes. Further versions and labels are not counted. */
const MAX_ENTRIES = 50_000;
/** What a version takes, in labels. */
const ENTRIES_PER_VERSION = 15;

/** What a prediction is counted by. */
export interface CountedPrediction {
  /** The index of the most probable label, and its probability. Null for regression. */
  readonly top: { readonly label: number; readonly score: number } | null;
  /** A scope score within [0, 1], where the head has one. */
  readonly scope?: number | undefined;
  /** The bin of its share of unknown words; null where words are not known. */
  readonly unknownWords: number | null;
}

interface Counter {
  readonly head: ServedHead;
  readonly isShadow: boolean;
  inputs: number;
  confidenceSum: number;
  shed: number;
  readonly confidence: number[];
  readonly scope: number[];
  readonly unknownWords: number[];
  readonly labels: Map<number, number>;
  readonly agreement: Map<number, Agreement>;
}

type SealedBatch = CountBatch & { readonly sealedAt: number };

interface TenantMeter {
  counters: Map<string, Counter>;
  /** What the ledger has not confirmed. */
  batch: SealedBatch | null;
  /** When the next write is due; null if none is to come. */
  writeDueAt: number | null;
  /** When the batch was last sent and not answered yet. */
  sentAt: number | null;
}

const meters = new Map<string, TenantMeter>();
/** Made with the first batch: an isolate has no random numbers before its first request. */
let writer: string | null = null;
let lastBatch = 0;
/** What is counted and not written, in labels. */
let entries = 0;

/** Counts predictions that were shown, or that a shadow version made. */
export function countPredictions(
  request: TenantRequest,
  head: ServedHead,
  isShadow: boolean,
  predictions: readonly CountedPrediction[],
): void {
  const counter = findCounter(request, head, isShadow);
  if (counter !== null) for (const prediction of predictions) addPrediction(counter, prediction);
}

function addPrediction(counter: Counter, { top, scope, unknownWords }: CountedPrediction): void {
  counter.inputs++;
  if (top !== null) {
    increase(counter.confidence, scoreBin(top.score));
    counter.confidenceSum += top.score;
    const key = labelKey(top.label);
    const count = counter.labels.get(key) ?? 0;
    if (count > 0 || entries < MAX_ENTRIES) {
      if (count === 0) entries++;
      counter.labels.set(key, count + 1);
    }
  }
  if (scope !== undefined) increase(counter.scope, scoreBin(scope));
  if (unknownWords !== null) increase(counter.unknownWords, unknownWords);
}

/** Counts how often a shadow version predicted what another version answered. */
export function countAgreement(request: TenantRequest, shadow: ServedHead, answered: number, added: Agreement): void {
  const counter = findCounter(request, shadow, true);
  if (counter === null) return;
  const { inputs, agreed } = counter.agreement.get(answered) ?? { inputs: 0, agreed: 0 };
  counter.agreement.set(answered, { inputs: inputs + added.inputs, agreed: agreed + added.agreed });
}

/** Counts inputs that a shadow version did not predict because there was too much else to do. */
export function countShed(request: TenantRequest, shadow: ServedHead, inputs: number): void {
  const counter = findCounter(request, shadow, true);
  if (counter !== null) counter.shed += inputs;
}

function increase(bins: number[], bin: number): void {
  bins[bin] = (bins[bin] ?? 0) + 1;
}

/** Where a version is counted. Has what is counted written later, if that is not yet so. */
function findCounter(request: TenantRequest, head: ServedHead, isShadow: boolean): Counter | null {
  const { tenant } = request;
  let meter = meters.get(tenant);
  if (meter === undefined) {
    if (entries + ENTRIES_PER_VERSION > MAX_ENTRIES) return null;
    meter = { counters: new Map(), batch: null, writeDueAt: null, sentAt: null };
    meters.set(tenant, meter);
  }
  // Another head of the same name, after the first was deleted, has other bytes.
  const key = `${head.id}@${head.version} ${head.sha256}${isShadow ? "~" : ""}`;
  let counter = meter.counters.get(key);
  if (counter === undefined) {
    if (entries + ENTRIES_PER_VERSION > MAX_ENTRIES) return null;
    entries += ENTRIES_PER_VERSION;
    counter = {
      head,
      isShadow,
      inputs: 0,
      confidenceSum: 0,
      shed: 0,
      confidence: [...noInputs.confidence],
      scope: [...noInputs.scope],
      unknownWords: [...noInputs.unknown_words],
      labels: new Map(),
      agreement: new Map(),
    };
    meter.counters.set(key, counter);
  }
  const now = Date.now();
  // One that is long overdue has ended with its request.
  if (meter.writeDueAt === null || now > meter.writeDueAt + MAX_DELAY_MS) {
    const wait = waitToWrite(request.env);
    meter.writeDueAt = now + wait;
    request.waitUntil(writeLater(request, meter, wait));
  }
  return counter;
}

async function writeLater({ env, tenant }: TenantRequest, meter: TenantMeter, wait: number): Promise<void> {
  await scheduler.wait(wait);
  // What is counted from here on is for the next batch.
  meter.writeDueAt = null;
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    if (tries > 0) await scheduler.wait(RETRY_MS);
    if (await writeCounts(env, tenant, meter)) break;
  }
  const isIdle = meter.batch === null && meter.counters.size === 0 && meter.writeDueAt === null;
  if (isIdle && meters.get(tenant) === meter) meters.delete(tenant);
}

/**
 * Writes the batch that waits, then one of what has been counted since. Answers whether the ledger has taken both. What is
 * counted meanwhile has a later write of its own.
 */
async function writeCounts(env: Cloudflare.Env, tenant: string, meter: TenantMeter): Promise<boolean> {
  const now = Date.now();
  // Another request is writing, unless it was ended with its answer outstanding.
  if (meter.sentAt !== null && now - meter.sentAt < MAX_TRIES * RETRY_MS) return false;
  if (meter.batch !== null && now - meter.batch.sealedAt > MAX_BATCH_AGE_MS) meter.batch = null;
  if (meter.batch !== null && !(await sendBatch(env, tenant, meter, meter.batch))) return false;
  if (meter.counters.size === 0) return true;
  meter.batch ??= sealBatch(meter, now);
  return sendBatch(env, tenant, meter, meter.batch);
}

async function sendBatch(
  env: Cloudflare.Env,
  tenant: string,
  meter: TenantMeter,
  { sealedAt: _sealedAt, ...batch }: SealedBatch,
): Promise<boolean> {
  meter.sentAt = Date.now();
  try {
    // A tenant that is gone takes none.
    await getLedger(env.TENANT, tenant).recordCounts(batch);
    if (meter.batch?.number === batch.number) meter.batch = null;
    return true;
  } catch {
    return false;
  } finally {
    meter.sentAt = null;
  }
}

function sealBatch(meter: TenantMeter, now: number): SealedBatch {
  writer ??= newId("cw_");
  const counters = [...meter.counters.values()];
  meter.counters = new Map();
  for (const { labels } of counters) entries -= ENTRIES_PER_VERSION + labels.size;
  const versions = counters.map(toVersionCounts);
  return { writer, number: ++lastBatch, versions, sealedAt: now };
}

function toVersionCounts({ head, isShadow, ...counter }: Counter): VersionCounts {
  const counts: TrafficCounts = {
    ...noTraffic,
    inputs: {
      inputs: counter.inputs,
      confidence: counter.confidence,
      confidence_sum: counter.confidenceSum,
      scope: counter.scope,
      unknown_words: counter.unknownWords,
      labels: Object.fromEntries(counter.labels),
    },
    shadow_inputs: isShadow ? counter.inputs : 0,
    shed: counter.shed,
    agreement: Object.fromEntries(counter.agreement),
  };
  return { head: head.id, version: head.version, sha256: head.sha256, counts };
}
