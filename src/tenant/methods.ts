/** What the Worker may call on a ledger for idempotency keys and API keys. */
import type { PageRequest } from "../api/lists.ts";
import type { Result } from "../core/failure.ts";
import * as apiKeys from "./api-keys.ts";
import { getReferencedChange } from "./data/edits.ts";
import { getRecommendation } from "./data/recommendations.ts";
import { getRun } from "./heads/evaluations.ts";
import { getReferencedHead } from "./heads/heads.ts";
import * as idempotency from "./idempotency.ts";
import { DAY_MS, schedule } from "./tasks/tasks.ts";
import type { Transactions } from "./transactions.ts";

/** What an answer shows that was stored as a reference. */
function show(sql: SqlStorage, reference: idempotency.Reference, now: number): Result<unknown> {
  switch (reference.kind) {
    case "head":
      return getReferencedHead(sql, reference);
    case "dataset_change":
      return getReferencedChange(sql, reference, now);
    case "evaluation":
      return getRun(sql, reference.id);
    case "recommendation":
      return getRecommendation(sql, reference.id);
  }
}

export const keyMethods = {
  claimIdempotencyKey: (ledger: Transactions, request: idempotency.IdempotentRequest) =>
    ledger.change((sql, now) => {
      schedule(sql, "expire_answers", "", now + DAY_MS);
      return idempotency.claimKey(sql, request, now, (reference) => show(sql, reference, now));
    }),
  releaseIdempotencyKey(ledger: Transactions, claim: string): void {
    if (ledger.exists) idempotency.releaseKey(ledger.storage.sql, claim);
  },

  /** The key with this hash, and whether its tenant is suspended; null if no such key is valid. */
  leaseApiKey(ledger: Transactions, hash: string): apiKeys.KeyLease | null {
    const key = ledger.exists ? apiKeys.findValidApiKey(ledger.storage.sql, hash, Date.now()) : null;
    return key && { ...key, suspended: ledger.isSuspended };
  },
  createApiKey: (ledger: Transactions, claim: string | null, key: apiKeys.NewApiKey) =>
    ledger.change((sql, now) => apiKeys.createApiKey(sql, key, now), { claim, status: 201 }),
  listApiKeys: (ledger: Transactions, request: PageRequest) => ledger.read((sql) => apiKeys.listApiKeys(sql, request)),
  revokeApiKey: (ledger: Transactions, id: string) => ledger.change((sql) => apiKeys.revokeApiKey(sql, id)),
};
