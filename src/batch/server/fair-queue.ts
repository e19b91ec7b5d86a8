/**
 * Who is served next. The queue itself is the tenants' own: who finds no room asks again later. This remembers who asked,
 * so that room goes round the tenants in turn, and not to whoever happens to ask when there is some.
 *
 * A tenant that was given room longest ago, or never, goes first; of one tenant's jobs the oldest. Who has not asked again
 * in time has lost its place. Times are in milliseconds, and passed in.
 */

export interface Asking {
  readonly tenant: string;
  readonly job: string;
  /** When the job was created: any unit, of all the same. */
  readonly createdAt: number;
}

/** Whether who asks may come in now; if not, in how many seconds to ask again. */
export type Place = { readonly granted: true } | { readonly granted: false; readonly retryAfter: number };

export interface Line {
  /** @param room for how many there is room now */
  ask(asking: Asking, room: number, now: number): Place;
  /** Takes a job out of the line. */
  leave(job: string): void;
  waiting(): number;
}

interface Waiting extends Asking {
  readonly firstAsked: number;
  /** Until when it keeps its place without asking again. */
  readonly freshUntil: number;
}

const LONGEST_RETRY_SECONDS = 30;
/** So many at the front ask every second. */
const EAGER = 4;
/** Asking again may take twice as long as it was told, and a second more. */
const PATIENCE = 2;
const GRACE_MS = 1_000;
const MOST_WAITING = 10_000;
const MOST_TENANTS = 10_000;

/** Seconds after which who is at this place (0: the first) is to ask again. */
function retryAfterOf(place: number): number {
  return Math.min(LONGEST_RETRY_SECONDS, Math.max(1, place - EAGER + 2));
}

export function makeLine(): Line {
  const waiting = new Map<string, Waiting>();
  /** When each tenant was given room, counted: the first is who was longest ago. */
  const served = new Map<string, number>();
  let turns = 0;

  const older = (a: Waiting, b: Waiting) =>
    a.createdAt - b.createdAt || a.firstAsked - b.firstAsked || (a.job < b.job ? -1 : 1);

  /** How many go before this one. */
  const placeOf = (asking: Waiting): number => {
    const byTenant = new Map<string, Waiting[]>();
    for (const each of waiting.values()) {
      const jobs = byTenant.get(each.tenant);
      if (jobs === undefined) byTenant.set(each.tenant, [each]);
      else jobs.push(each);
    }
    const own = byTenant.get(asking.tenant) ?? [];
    const round = own.filter((each) => older(each, asking) < 0).length;
    const turnOf = (tenant: string) => served.get(tenant) ?? -1;
    const firstOf = (jobs: readonly Waiting[]) => Math.min(...jobs.map(({ firstAsked }) => firstAsked));
    const before = (jobs: readonly Waiting[], tenant: string) =>
      turnOf(tenant) - turnOf(asking.tenant) || firstOf(jobs) - firstOf(own) || (tenant < asking.tenant ? -1 : 1);
    let place = round;
    for (const [tenant, jobs] of byTenant) {
      if (tenant === asking.tenant) continue;
      place += Math.min(jobs.length, before(jobs, tenant) < 0 ? round + 1 : round);
    }
    return place;
  };

  return {
    ask({ tenant, job, createdAt }, room, now) {
      for (const [key, { freshUntil }] of waiting) if (freshUntil < now) waiting.delete(key);
      const firstAsked = waiting.get(job)?.firstAsked ?? now;
      if (!waiting.has(job) && waiting.size >= MOST_WAITING)
        return { granted: false, retryAfter: LONGEST_RETRY_SECONDS };
      const asking = { tenant, job, createdAt, firstAsked, freshUntil: now };
      waiting.set(job, asking);
      const place = placeOf(asking);
      if (place < room) {
        waiting.delete(job);
        served.delete(tenant);
        served.set(tenant, turns++);
        if (served.size > MOST_TENANTS) served.delete(served.keys().next().value as string);
        return { granted: true };
      }
      const retryAfter = retryAfterOf(place);
      waiting.set(job, { ...asking, freshUntil: now + PATIENCE * retryAfter * 1000 + GRACE_MS });
      return { granted: false, retryAfter };
    },
    leave: (job) => void waiting.delete(job),
    waiting: () => waiting.size,
  };
}
