/**
 * Who is served next. The queue itself is the tenants' own: who finds no room asks again later. This remembers who asked,
 * so that room goes round the tenants in turn, and not to whoever happens to ask when there is some.
 *
 * A tenant that was given room longest ago, or never, goes first; of one tenant's jobs the oldest. Who has not asked again
 * in time has lost its place. Times are in milliseconds, and passed in.
 */

export interface Request {
  readonly tenant: string;
  readonly job: string;
  /** When the job was created: any unit, of all the same. */
  readonly createdAt: number;
}

/** Whether who asks may come in now; if not, in how many seconds to ask again. */
export type Admission = { readonly granted: true } | { readonly granted: false; readonly retryAfter: number };

export interface FairQueue {
  /** @param freeSlots for how many there is room now */
  acquireSlot(request: Request, freeSlots: number, now: number): Admission;
  /** Takes a job out of the line. */
  remove(job: string): void;
  size(): number;
}

interface WaitingRequest extends Request {
  readonly firstRequestedAt: number;
  /** Until when it keeps its place without asking again. */
  readonly expiresAt: number;
}

const MAX_RETRY_SECONDS = 30;
/** So many at the front ask every second. */
const EAGER_POSITIONS = 4;
/** Asking again may take twice as long as it was told, and a second more. */
const RETRY_TOLERANCE = 2;
const GRACE_MS = 1_000;
const MAX_WAITING = 10_000;
const MAX_TENANTS = 10_000;

/** Seconds after which who is at this place (0: the first) is to ask again. */
function retryAfterOf(position: number): number {
  return Math.min(MAX_RETRY_SECONDS, Math.max(1, position - EAGER_POSITIONS + 2));
}

export function makeFairQueue(): FairQueue {
  const waiting = new Map<string, WaitingRequest>();
  /** When each tenant was given room, counted: the first is who was longest ago. */
  const lastServed = new Map<string, number>();
  let servedCount = 0;

  const compareAge = (a: WaitingRequest, b: WaitingRequest) =>
    a.createdAt - b.createdAt || a.firstRequestedAt - b.firstRequestedAt || (a.job < b.job ? -1 : 1);

  /** How many go before this one. */
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
        if (lastServed.size > MAX_TENANTS) lastServed.delete(lastServed.keys().next().value as string);
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
