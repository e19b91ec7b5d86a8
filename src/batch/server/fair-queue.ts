/**
 * Decides which job gets the next free slot. The jobs themselves wait in the tenants' ledgers; a job that finds no free slot
 * asks again later. The queue remembers who asked, so that slots go to the tenants in turn, and not to whichever job asks at
 * the right moment.
 *
 * The tenant that got a slot longest ago, or never, goes first; among its jobs the one that core/lifecycle/job-order.ts puts
 * first. Some slots are for small jobs alone, so that these need not wait for large ones. A job that does not ask again in
 * time loses its position. Times are in milliseconds, and passed in.
 */
import { compareJobs, type WaitingJob } from "../../core/lifecycle/job-order.ts";

export interface Request extends WaitingJob {
  readonly tenant: string;
  readonly job: string;
  readonly isSmall: boolean;
}

/** How many slots are free now. */
export interface FreeSlots {
  readonly any: number;
  /** For small jobs alone. */
  readonly small: number;
}

/** Whether the job gets a slot now; if not, in how many seconds to ask again. */
export type Admission = { readonly granted: true } | { readonly granted: false; readonly retryAfter: number };

export interface FairQueue {
  acquireSlot(request: Request, freeSlots: FreeSlots, now: number): Admission;
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

  /** How many of these jobs go before this one, which is among them. */
  const positionOf = (request: WaitingRequest, requests: Iterable<WaitingRequest>, now: number): number => {
    const compareRequests = (a: WaitingRequest, b: WaitingRequest) =>
      compareJobs(a, b, now) || a.firstRequestedAt - b.firstRequestedAt || (a.job < b.job ? -1 : 1);
    const byTenant = new Map<string, WaitingRequest[]>();
    for (const each of requests) {
      const jobs = byTenant.get(each.tenant);
      if (jobs === undefined) byTenant.set(each.tenant, [each]);
      else jobs.push(each);
    }
    const ownRequests = byTenant.get(request.tenant) ?? [];
    const round = ownRequests.filter((each) => compareRequests(each, request) < 0).length;
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
    acquireSlot(requested, freeSlots, now) {
      const { tenant, job } = requested;
      for (const [key, { expiresAt }] of waiting) if (expiresAt < now) waiting.delete(key);
      const firstRequestedAt = waiting.get(job)?.firstRequestedAt ?? now;
      if (!waiting.has(job) && waiting.size >= MAX_WAITING) return { granted: false, retryAfter: MAX_RETRY_SECONDS };
      const request = { ...requested, firstRequestedAt, expiresAt: now };
      waiting.set(job, request);
      const position = positionOf(request, waiting.values(), now);
      const smallPosition = request.isSmall
        ? positionOf(
            request,
            [...waiting.values()].filter(({ isSmall }) => isSmall),
            now,
          )
        : Number.POSITIVE_INFINITY;
      if (position < freeSlots.any || smallPosition < freeSlots.small) {
        waiting.delete(job);
        lastServed.delete(tenant);
        lastServed.set(tenant, servedCount++);
        const [oldest] = lastServed.keys();
        if (lastServed.size > MAX_TENANTS && oldest !== undefined) lastServed.delete(oldest);
        return { granted: true };
      }
      const retryAfter = retryAfterOf(Math.min(position, smallPosition));
      waiting.set(job, { ...request, expiresAt: now + RETRY_TOLERANCE * retryAfter * 1000 + GRACE_MS });
      return { granted: false, retryAfter };
    },
    remove: (job) => void waiting.delete(job),
    size: () => waiting.size,
  };
}
