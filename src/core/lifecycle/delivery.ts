/**
 * How an event gets to a webhook endpoint, as two pure state machines: that of a delivery (one event to one endpoint), and
 * what is known of an endpoint's health, which decides when and how many deliveries are attempted. Any event may come
 * twice, late or out of order: where it has no place it changes nothing. Times are in milliseconds; `random` is uniform
 * in [0, 1).
 *
 *   pending → succeeded | failed, and back to pending where it is asked for again
 *
 * An attempt is written down before it is made, together with a time by which it must have ended: where the process
 * dies meanwhile, the next attempt is due then. Its number rises with every attempt, and only the outcome of the newest
 * counts, once.
 */
const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

/** How long a delivery waits before each of its attempts, from the end of the one before. */
export const RETRY_SCHEDULE: readonly number[] = [
  0,
  5 * SECOND,
  5 * MINUTE,
  30 * MINUTE,
  2 * HOUR,
  5 * HOUR,
  10 * HOUR,
  14 * HOUR,
  20 * HOUR,
  24 * HOUR,
];
/** A wait is so much longer or shorter at most, so that what failed at once does not come again at once. */
const JITTER = 0.1;

export interface Delivery {
  readonly status: "pending" | "succeeded" | "failed";
  /** The number of the newest attempt; 0 before the first. */
  readonly attempt: number;
  /** The newest attempt before the delivery was asked for last: those after it count towards the schedule. */
  readonly scheduleStart: number;
  /** Whether the newest attempt's outcome is not known yet. */
  readonly inFlight: boolean;
  /** When the next attempt is due; null where none is. */
  readonly dueAt: number | null;
}

/** What came of an attempt; `retryAfter` is what the endpoint asked for. */
export type AttemptOutcome =
  | { readonly type: "succeeded" }
  | { readonly type: "gone" }
  | { readonly type: "failed"; readonly busy: boolean; readonly retryAfter: number | null };

export type DeliveryEvent =
  /** An attempt is about to be made, whose outcome will be known after `lease`, if ever. */
  | { readonly type: "begin"; readonly lease: number }
  | { readonly type: "ended"; readonly attempt: number; readonly outcome: AttemptOutcome }
  | { readonly type: "redeliver" }
  /** Its endpoint takes no more. */
  | { readonly type: "disable" };

/** A delivery that is due at once, or one to an endpoint that is disabled, which has failed before it began. */
export function newDelivery(enabled: boolean, now: number): Delivery {
  const dueAt = enabled ? now : null;
  return { status: enabled ? "pending" : "failed", attempt: 0, scheduleStart: 0, inFlight: false, dueAt };
}

/** The next state. What begins is a new attempt only where `attempt` has risen. */
export function advance(state: Delivery, event: DeliveryEvent, now: number, random: number): Delivery {
  const { status, attempt, scheduleStart, inFlight, dueAt } = state;
  const attemptsMade = attempt - scheduleStart;
  switch (event.type) {
    case "begin":
      if (status !== "pending" || dueAt === null || dueAt > now) return state;
      // The last attempt was cut off.
      if (attemptsMade >= RETRY_SCHEDULE.length) return { ...state, status: "failed", inFlight: false, dueAt: null };
      return { ...state, attempt: attempt + 1, inFlight: true, dueAt: now + event.lease };
    case "ended": {
      if (!inFlight || event.attempt !== attempt) return state;
      if (event.outcome.type === "succeeded") return { ...state, status: "succeeded", inFlight: false, dueAt: null };
      if (status !== "pending") return { ...state, inFlight: false };
      const wait = RETRY_SCHEDULE[attemptsMade];
      if (wait === undefined) return { ...state, status: "failed", inFlight: false, dueAt: null };
      return { ...state, inFlight: false, dueAt: now + wait * (1 - JITTER + 2 * JITTER * random) };
    }
    case "redeliver":
      // Where an attempt is under way its end is waited for: it may be the answer.
      return { ...state, status: "pending", scheduleStart: attempt, dueAt: inFlight && dueAt !== null ? dueAt : now };
    case "disable":
      return status === "pending" ? { ...state, status: "failed", dueAt: null } : state;
  }
}

/** Answers by which an endpoint says that it cannot take more for now. */
const BUSY_STATUSES: ReadonlySet<number> = new Set([429, 502, 503, 504]);

/** What an answer's status means; null is none. A redirection is a failure: it is never followed. */
export function outcomeOf(status: number | null, retryAfter: number | null): AttemptOutcome {
  if (status !== null && status >= 200 && status < 300) return { type: "succeeded" };
  if (status === 410) return { type: "gone" };
  return { type: "failed", busy: status !== null && BUSY_STATUSES.has(status), retryAfter };
}

export interface EndpointHealth {
  /** Whether it has ever taken a delivery. */
  readonly proven: boolean;
  /** At most so many attempts are under way at once. */
  readonly window: number;
  /** Failures in a row, and how often in a row they have put it off. */
  readonly failures: number;
  readonly openings: number;
  /** Nothing is sent before this. */
  readonly openUntil: number;
  readonly failingSince: number | null;
}

export const newEndpointHealth: EndpointHealth = {
  proven: false,
  window: 1,
  failures: 0,
  openings: 0,
  openUntil: 0,
  failingSince: null,
};

const MAX_WINDOW = 4;
/** After so many failures in a row an endpoint is put off, longer each time; then one attempt shows whether it is back. */
const CIRCUIT_FAILURE_THRESHOLD = 5;
const MIN_CIRCUIT_OPEN = 30 * SECOND;
const MAX_CIRCUIT_OPEN = 10 * MINUTE;
const MAX_RETRY_AFTER = 24 * HOUR;
/** An endpoint that has only failed for so long is disabled. */
const DISABLE_AFTER = 5 * 24 * HOUR;

/** What is known of an endpoint after an attempt has ended. */
export function recordOutcome(health: EndpointHealth, outcome: AttemptOutcome, now: number): EndpointHealth {
  if (outcome.type === "succeeded") {
    // Until when it asked to be left alone stays as it is.
    const window = Math.min(health.window + 1, MAX_WINDOW);
    return { proven: true, window, failures: 0, openings: 0, openUntil: health.openUntil, failingSince: null };
  }
  const failures = health.failures + 1;
  const failedHealth = { ...health, window: 1, failures, failingSince: health.failingSince ?? now };
  const retryAfter = outcome.type === "failed" ? outcome.retryAfter : null;
  // What was under way as it was put off does not put it off further.
  const trips =
    health.openUntil <= now &&
    (failures >= CIRCUIT_FAILURE_THRESHOLD || (outcome.type === "failed" && outcome.busy && retryAfter === null));
  const openDuration = trips ? Math.min(MIN_CIRCUIT_OPEN * 2 ** health.openings, MAX_CIRCUIT_OPEN) : 0;
  const blockedUntil = now + Math.max(openDuration, Math.min(retryAfter ?? 0, MAX_RETRY_AFTER));
  return {
    ...failedHealth,
    openings: health.openings + (trips ? 1 : 0),
    openUntil: Math.max(health.openUntil, blockedUntil),
  };
}

/** Why an endpoint is to be disabled after an attempt with this outcome; null where it is not. */
export function disableReason(
  { failingSince }: EndpointHealth,
  outcome: AttemptOutcome,
  now: number,
): "gone" | "failing" | null {
  if (outcome.type === "gone") return "gone";
  return failingSince !== null && now - failingSince >= DISABLE_AFTER ? "failing" : null;
}

/** An attempt that lasts so long counts its endpoint to those that fail. */
export const SLOW_ATTEMPT_MS = SECOND;

/** An endpoint at this moment; `since` is when each of its attempts under way began. */
export interface EndpointLoad {
  readonly health: EndpointHealth;
  readonly attemptStarts: readonly number[];
}

/** The platform opens so many connections at once. */
const MAX_CONNECTIONS = 6;
const MAX_FAILING_CONNECTIONS = 1;
const MAX_UNPROVEN_CONNECTIONS = 2;
/** Of either sort, those that have turned out to be slow included: the rest is for endpoints that answer. */
const MAX_UNHEALTHY_CONNECTIONS = 4;

function healthStatus({ health, attemptStarts }: EndpointLoad, now: number): "healthy" | "unproven" | "failing" {
  // One failure may be an accident, such as a release of the receiver.
  if (health.failures > 1 || attemptStarts.some((start) => now - start >= SLOW_ATTEMPT_MS)) return "failing";
  return health.proven ? "healthy" : "unproven";
}

/**
 * Whether another attempt may begin at an endpoint, beside all that is under way at a tenant's. Endpoints that fail or hang
 * share few connections, so that the others never wait for them; nor does one that answers take the last of them for a
 * second attempt.
 */
export function canDispatch(endpoint: EndpointLoad, endpoints: readonly EndpointLoad[], now: number): boolean {
  const { health, attemptStarts } = endpoint;
  const countInFlight = (status: string | null) =>
    endpoints.reduce(
      (sum, one) => sum + (status === null || healthStatus(one, now) === status ? one.attemptStarts.length : 0),
      0,
    );
  if (health.openUntil > now || attemptStarts.length >= health.window) return false;
  if (countInFlight(null) >= (attemptStarts.length > 0 ? MAX_CONNECTIONS - 1 : MAX_CONNECTIONS)) return false;
  const status = healthStatus(endpoint, now);
  if (status === "healthy") return true;
  const [failing, unproven] = [countInFlight("failing"), countInFlight("unproven")];
  if (failing + unproven >= MAX_UNHEALTHY_CONNECTIONS) return false;
  return status === "failing" ? failing < MAX_FAILING_CONNECTIONS : unproven < MAX_UNPROVEN_CONNECTIONS;
}
