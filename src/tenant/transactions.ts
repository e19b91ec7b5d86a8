/** Transactions on one tenant's ledger. They find nothing where the tenant was never created, or is being deleted. */
import { type Failure, fail, type Result } from "../core/failure.ts";
import type { StagedKeys } from "./data/staged-keys.ts";
import { deriveSecretKeys, type SecretKeys } from "./hooks/secrets.ts";
import { type Reference, saveResponse } from "./idempotency.ts";
import { type Identity, readIdentity } from "./schema.ts";
import { setNextAlarm } from "./tasks/tasks.ts";

/** How a request that changes something is to be answered again: under which claim of its key, and with which status. */
export interface IdempotentResponse<T = unknown> {
  /** Null where the request has no `Idempotency-Key`. */
  readonly claim: string | null;
  readonly status: number;
  /** Where the answer shows what is stored, and may be large. */
  readonly refer?: (sql: SqlStorage, answer: T) => Reference;
}

export const suspendedFailure: Failure = {
  code: "tenant_suspended",
  message: "The operator has suspended this tenant. Nothing is deleted. Ask the operator to activate it again.",
};

/** Rolls a transaction back. */
class RollbackError extends Error {
  readonly failure: Failure;
  constructor(failure: Failure) {
    super(failure.code);
    this.failure = failure;
  }
}

export class Transactions {
  readonly env: Cloudflare.Env;
  readonly storage: DurableObjectStorage;
  readonly secretKeys: SecretKeys;
  /** What the imports that are under way have staged, by their ids. */
  readonly stagedKeys = new Map<string, StagedKeys>();
  /** The numbers of the imports that this object is merging. */
  readonly activeMerges = new Set<number>();
  /** The numbers of the datasets that this object is editing. */
  readonly activeEdits = new Set<number>();
  #identity: Identity | null;
  #lastExclusive: Promise<unknown> = Promise.resolve();

  constructor(env: Cloudflare.Env, storage: DurableObjectStorage) {
    this.env = env;
    this.storage = storage;
    this.secretKeys = deriveSecretKeys(env);
    this.#identity = readIdentity(storage.sql);
  }

  /** Whose ledger this is; null if none was created, or all was erased. */
  get tenant(): string | null {
    return this.#identity?.tenant ?? null;
  }

  /** Whether there is such a tenant: its ledger was created, and is not being deleted. */
  get exists(): boolean {
    return this.#identity !== null && this.#identity.status !== "deleting";
  }

  /** Whether the operator has suspended the tenant. Its keys are refused, and the work done for it waits. */
  get isSuspended(): boolean {
    return this.#identity?.status === "suspended";
  }

  /** Reads the tenant's id and status again, after they were changed. */
  reloadIdentity(): void {
    this.#identity = readIdentity(this.storage.sql);
  }

  read<T>(read: (sql: SqlStorage, now: number) => Result<T>): Result<T> {
    return this.exists ? read(this.storage.sql, Date.now()) : fail("not_found", "No such tenant.");
  }

  /**
   * Runs a change in one transaction and rolls it back if it is refused. The answer is stored in the same transaction,
   * for the request's `Idempotency-Key`.
   */
  async change<T>(
    change: (sql: SqlStorage, now: number) => Result<T>,
    { claim, status, refer }: IdempotentResponse<T> = { claim: null, status: 200 },
  ): Promise<Result<T>> {
    try {
      return this.changeNow((sql, now) => {
        const result = change(sql, now);
        if (!result.ok) return result;
        const { value } = result;
        const saved = saveResponse(sql, claim, { status, body: value }, refer && (() => refer(sql, value)));
        return saved.ok ? result : saved;
      });
    } finally {
      if (this.exists) await setNextAlarm(this.storage);
    }
  }

  /** Runs a change that schedules no task. */
  changeNow<T>(change: (sql: SqlStorage, now: number) => Result<T>): Result<T> {
    if (!this.exists) return fail("not_found", "No such tenant.");
    try {
      return this.storage.transactionSync(() => {
        const result = change(this.storage.sql, Date.now());
        if (!result.ok) throw new RollbackError(result.failure);
        return result;
      });
    } catch (error) {
      if (error instanceof RollbackError) return { ok: false, failure: error.failure };
      throw error;
    }
  }

  /**
   * Runs one piece of such work at a time. Commits of versions and files exclude deletions of bytes: equal data give
   * equal bytes, so a training may have just stored what is about to be deleted for a deleted head, and an upload may
   * take longer than a sweep waits for its row.
   */
  exclusive<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#lastExclusive.then(work);
    this.#lastExclusive = done.catch(() => undefined);
    return done;
  }

  /** Commits a row whose bytes have to be in R2, and keeps them from being deleted meanwhile. */
  async commitIfStored<T>(
    isStored: (bucket: R2Bucket, tenant: string) => Promise<boolean>,
    missingMessage: string,
    commit: () => Promise<Result<T>>,
  ): Promise<Result<T>> {
    const { tenant } = this;
    if (tenant === null) return fail("not_found", "No such tenant.");
    return this.exclusive(async () => {
      // They are missing if equal bytes were deleted meanwhile. R2 may also fail to answer.
      if (await isStored(this.env.BUCKET, tenant).catch(() => false)) return commit();
      return fail("storage_unavailable", missingMessage, { retryAfter: 1 });
    });
  }
}
