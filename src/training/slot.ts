/**
 * What one training of this isolate may do at a time: the isolate's memory cannot hold the arrays of two. Tenants take
 * turns, whoever asks most often.
 */
import { type Failure, fail, ok, type Result } from "../core/failure.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";

/** How long a training waits. The one that runs may take up to a minute. */
const ACQUIRE_TIMEOUT_MS = 60_000;
const POLL_INTERVAL_MS = 50;
/** A waiting training that has not polled for so long has ended without a `finally`, and does not keep others waiting. */
const POLL_TIMEOUT_MS = 1_000;
/**
 * A training that sends no heartbeat for 30 s has ended without a `finally`: the platform may end a request whose client
 * has disconnected. It loses its slot, and its arrays are freed.
 */
const HEARTBEAT_MS = 5_000;
const HEARTBEAT_TIMEOUT_MS = 30_000;
/** Tenants whose last turn is remembered. A tenant that is forgotten goes first. */
const MAX_RECENT_TENANTS = 1_000;

/** Who asks for a training. */
export type Requester = Pick<TenantRequest, "tenant" | "signal">;

export const preemptedFailure: Failure = {
  code: "capacity_exceeded",
  message: "This training stood still for too long, and had to make room for another.",
  retryAfter: 5,
};

/** Nobody reads it: it ends the work, and frees the request's `Idempotency-Key`. */
const disconnectedFailure: Failure = {
  code: "upload_incomplete",
  message: "The client has disconnected, so this training was stopped. Nothing was changed; send it again.",
};

const isolateBusy = fail("capacity_exceeded", "Other trainings are running here. Try again in a few seconds.", {
  retryAfter: 5,
});
const tenantWaits = fail(
  "capacity_exceeded",
  "Another training of this tenant is waiting here already. Run trainings one after another.",
  { retryAfter: 5 },
);

export class Slot {
  holder: { lastHeartbeat: number; readonly onPreempt: () => void } | null = null;
  /** One training a tenant, and when it has last polled. */
  readonly #waiting = new Map<string, { polledAt: number }>();
  /** Tenants that have had the slot, the one that had it least recently first. */
  readonly #recent = new Set<string>();

  /**
   * Takes the slot, after waiting for the turn of this tenant. Returns the function that releases it. A slot whose holder
   * has sent no heartbeat is taken from it: `onPreempt` of that holder frees its arrays, and tells it if it still runs.
   */
  async acquire({ tenant, signal }: Requester, onPreempt: () => void): Promise<Result<() => void>> {
    const startedAt = Date.now();
    const waiter = { polledAt: startedAt };
    if (this.#isPolled(this.#waiting.get(tenant))) return tenantWaits;
    this.#waiting.set(tenant, waiter);
    try {
      while (!this.#isFree() || this.#next() !== tenant) {
        if (signal.aborted) return { ok: false, failure: disconnectedFailure };
        if (Date.now() - startedAt > ACQUIRE_TIMEOUT_MS) return isolateBusy;
        await scheduler.wait(POLL_INTERVAL_MS);
        waiter.polledAt = Date.now();
        // It had not polled for long, and another training of the tenant has come.
        if (this.#waiting.get(tenant) !== waiter) return tenantWaits;
      }
    } finally {
      if (this.#waiting.get(tenant) === waiter) this.#waiting.delete(tenant);
    }
    this.#markRecent(tenant);
    return ok(this.#hold(onPreempt));
  }

  #isFree(): boolean {
    return this.holder === null || Date.now() - this.holder.lastHeartbeat > HEARTBEAT_TIMEOUT_MS;
  }

  #isPolled(waiter: { polledAt: number } | undefined): boolean {
    return waiter !== undefined && Date.now() - waiter.polledAt <= POLL_TIMEOUT_MS;
  }

  /** The tenant whose turn it is: of those that wait, the one that has had the slot least recently. */
  #next(): string | undefined {
    const waiting = [...this.#waiting].filter(([, waiter]) => this.#isPolled(waiter)).map(([tenant]) => tenant);
    return waiting.find((tenant) => !this.#recent.has(tenant)) ?? [...this.#recent].find((t) => waiting.includes(t));
  }

  #markRecent(tenant: string): void {
    this.#recent.delete(tenant);
    this.#recent.add(tenant);
    const [oldest] = this.#recent;
    if (this.#recent.size > MAX_RECENT_TENANTS && oldest !== undefined) this.#recent.delete(oldest);
  }

  #hold(onPreempt: () => void): () => void {
    this.holder?.onPreempt();
    const holder = { lastHeartbeat: Date.now(), onPreempt };
    this.holder = holder;
    const heartbeat = setInterval(() => {
      holder.lastHeartbeat = Date.now();
    }, HEARTBEAT_MS);
    return () => {
      clearInterval(heartbeat);
      if (this.holder === holder) this.holder = null;
    };
  }
}

/** For holding a training's arrays and for fitting. */
export const trainingSlot = new Slot();
/** For calling a remote backbone: its responses take tens of megabytes, and what KV does not store is kept in memory. */
export const gatheringSlot = new Slot();

/** The slots of one training. */
export interface SlotHolder {
  /** Takes a slot unless it is held already. Returns why it could not, or null. */
  acquire(slot: Slot): Promise<Failure | null>;
  release(slot: Slot): void;
  releaseAll(): void;
  /** Why the training has to stop: another has taken a slot from it, or its client has gone. Otherwise null. */
  readonly stopReason: Failure | null;
}

/** `onPreempt` is called when another training takes a slot from this one. */
export function createSlotHolder(requester: Requester, onPreempt: () => void): SlotHolder {
  const releases = new Map<Slot, () => void>();
  let isPreempted = false;
  const release = (slot: Slot) => {
    releases.get(slot)?.();
    releases.delete(slot);
  };
  return {
    get stopReason() {
      if (isPreempted) return preemptedFailure;
      return requester.signal.aborted ? disconnectedFailure : null;
    },
    async acquire(slot) {
      if (isPreempted) return preemptedFailure;
      if (releases.has(slot)) return null;
      const acquired = await slot.acquire(requester, () => {
        isPreempted = true;
        onPreempt();
      });
      if (!acquired.ok) return acquired.failure;
      releases.set(slot, acquired.value);
      return null;
    },
    release,
    releaseAll() {
      for (const slot of [...releases.keys()]) release(slot);
    },
  };
}
