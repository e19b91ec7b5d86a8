/**
 * Decides which job gets the next free slot. The jobs themselves wait in the tenants' ledgers; a job that finds no free slot
 * asks again later. The queue remembers who asked, so that slots go to the tenants in turn, and not to whichever job asks at
 * the right moment.
 *
 * The tenant that got a slot longest ago, or never, goes first; among its jobs the oldest. A job that does not ask again in
 * time loses its position. Times are in milliseconds, and passed in.
 */

export interface Request {
  readonly tenant: string;
  readonly job: string;
  /** When the job was created, in the same unit for all jobs. */
  readonly createdAt: number;
}

/** Whether the job gets a slot now; if not, in how many seconds to ask again. */
export type Admission = { readonly granted: true } | { readonly granted: false; readonly retryAfter: number };

export interface FairQueue {
  /** @param freeSlots how many slots are free now */
  acquireSlot(request: Request, freeSlots: number, now: number): Admission;
  /** Removes a job from the queue. */
  remove(job: string): void;
  size(): number;
}

interface WaitingRequest extends Request {
  readonly firstRequestedAt: number;
  /** Until when it keeps its position without asking again. */
  readonly expiresAt: number;
}

const MAX_RETRY_SECONDS = 30;
/** So many jobs at the front ask every second. */
const EAGER_POSITIONS = 4;
/** A job may ask again up to twice as late as it was told, and a second more. */
const RETRY_TOLERANCE = 2;
const GRACE_MS = 1_000;
const MAX_WAITING = 10_000;
const MAX_TENANTS = 10_000;

/** Seconds after which the job at this position (0: the first) is to ask again. */
function retryAfterOf(position: number): number {
  return Math.min(MAX_RETRY_SECONDS, Math.max(1, position - EAGER_POSITIONS + 2));
}

export function makeFairQueue(): FairQueue {
  const waiting = new Map<string, WaitingRequest>();
  /** The number of the last slot that each tenant got. The first entry is the one of longest ago. */
  const lastServed = new Map<string, number>();
  let servedCount = 0;

  const compareAge = (a: WaitingRequest, b: WaitingRequest) =>
    a.createdAt - b.createdAt || a.firstRequestedAt - b.firstRequestedAt || (a.job < b.job ? -1 : 1);

  /** How many jobs go before this one. */
  const positionOf = (request: WaitingRequest): number => {
    const byTenant = new Map<string, WaitingRequest[]>();
    for (const each of waiting.values()) {
      const jobs = byTenant.get(each.tenant);
      if (jobs === undefined) byTenant.set(each.tenant, [each]);
      else jobs.push(each);
    }
    const ownRequests = byTenant.get(request.tenant) ?? [];
    const round = ownRequests.filter((each) => compareAge(each, request) < 0).length;
    const lastServedOf = (tenant: string) => lastServed.get(tenant) ?? -1;
    const firstRequestOf = (jobs: readonly WaitingRequest[]) =>
      Math.min(...jobs.map(({ firstRequestedAt }) => firstRequestedAt));
    const compareTenants = (jobs: readonly WaitingRequest[], tenant: string) =>
      lastServedOf(tenant) - lastServedOf(request.tenant) ||
      firstRequestOf(jobs) - firstRequestOf(ownRequests) ||
      (tenant < request.tenant ? -1 : 1);
    let position = round;
    for (const [tenant, jobs] of byTenant) {
      if (tenant === request.tenant) continue;
      position += Math.min(jobs.length, compareTenants(jobs, tenant) < 0 ? round + 1 : round);
    }
    return position;
  };

  return {
    acquireSlot({ tenant, job, createdAt }, freeSlots, now) {
      for (const [key, { expiresAt }] of waiting) if (expiresAt < now) waiting.delete(key);
      const firstRequestedAt = waiting.get(job)?.firstRequestedAt ?? now;
      if (!waiting.has(job) && waiting.size >= MAX_WAITING) return { granted: false, retryAfter: MAX_RETRY_SECONDS };
      const request = { tenant, job, createdAt, firstRequestedAt, expiresAt: now };
      waiting.set(job, request);
      const position = positionOf(request);
      if (position < freeSlots) {
        waiting.delete(job);
        lastServed.delete(tenant);
        lastServed.set(tenant, servedCount++);
        const [oldest] = lastServed.keys();
        if (lastServed.size > MAX_TENANTS && oldest !== undefined) lastServed.delete(oldest);
        return { granted: true };
      }
      const retryAfter = retryAfterOf(position);
      waiting.set(job, { ...request, expiresAt: now + RETRY_TOLERANCE * retryAfter * 1000 + GRACE_MS });
      return { granted: false, retryAfter };
    },
    remove: (job) => void waiting.delete(job),
    size: () => waiting.size,
  };
}
