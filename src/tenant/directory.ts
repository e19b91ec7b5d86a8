/**
 * The tenants that exist or were deleted: one small Durable Object for the operator's routes. No tenant's request needs
 * it. The id of a deleted tenant is never given out again.
 */

import { DurableObject } from "cloudflare:workers";
import type { ApiKey } from "../api/api-keys.ts";
import type { List, PageRequest } from "../api/lists.ts";
import type { Tenant, TenantChange } from "../api/tenants.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { toSeconds } from "../lib/time.ts";
import type { NewApiKey } from "./api-keys.ts";
import * as idempotency from "./idempotency.ts";
import { paginate } from "./page.ts";
import { eraseTenantBytes } from "./tasks/maintenance.ts";
import { getLedger, type Remote } from "./tenant.ts";

interface Row extends Record<string, SqlStorageValue> {
  rowid: number;
  id: string;
  name: string | null;
  status: "creating" | Tenant["status"];
  created_at: number;
  erase_at: number | null;
}

const RETRY_MS = 5_000;
/** KV's listings lag behind its writes, so a last sweep looks for what late requests have written. */
const FINAL_SWEEP_DELAY_MS = 3_600_000;

const schema = `
  CREATE TABLE IF NOT EXISTS tenants (
    id TEXT PRIMARY KEY, name TEXT, status TEXT NOT NULL, created_at INTEGER NOT NULL, erase_at INTEGER
  );
  CREATE TABLE IF NOT EXISTS idempotency (key TEXT PRIMARY KEY, request TEXT NOT NULL, status INTEGER, body TEXT, started_at INTEGER NOT NULL);
`;
/** The column that an older directory lacks. */
const addClaimColumn =
  "ALTER TABLE idempotency ADD COLUMN claim TEXT; CREATE INDEX idempotency_claim ON idempotency (claim)";

function toTenant(row: Row): Tenant {
  return {
    object: "tenant",
    id: row.id,
    name: row.name,
    status: row.status === "creating" ? "active" : row.status,
    created_at: row.created_at,
  };
}

function isDeleted({ status }: Row): boolean {
  return status === "deleting" || status === "deleted";
}

export class Directory extends DurableObject<Cloudflare.Env> {
  readonly #sql = this.ctx.storage.sql;
  /** Ids that are being created. Any other row with the status `creating` is of a creation that was interrupted. */
  readonly #creatingIds = new Set<string>();
  #lastUpdate: Promise<unknown> = Promise.resolve();

  constructor(ctx: DurableObjectState, env: Cloudflare.Env) {
    super(ctx, env);
    this.#sql.exec(schema);
    if (this.#sql.exec("SELECT 1 FROM pragma_table_info('idempotency') WHERE name = 'claim'").toArray().length === 0)
      this.#sql.exec(addClaimColumn);
  }

  #find(id: string): Row | undefined {
    return this.#sql.exec<Row>("SELECT rowid, * FROM tenants WHERE id = ?", id).toArray()[0];
  }

  async claimIdempotencyKey(
    request: idempotency.IdempotentRequest,
  ): Promise<Result<idempotency.StoredResponse | null>> {
    const now = Date.now();
    idempotency.deleteExpiredResponses(this.#sql, now);
    return idempotency.claimKey(this.#sql, request, now);
  }

  async releaseIdempotencyKey(claim: string): Promise<void> {
    idempotency.releaseKey(this.#sql, claim);
  }

  /** Takes the id and creates the tenant's ledger. The same call continues a creation that was interrupted. */
  async create(
    id: string,
    name: string | null,
    key: NewApiKey,
    claim: string | null,
  ): Promise<Result<{ tenant: Tenant; key: ApiKey }>> {
    const existing = this.#find(id);
    if (this.#creatingIds.has(id))
      return fail("request_in_progress", `The tenant '${id}' is being created.`, { param: "id", retryAfter: 1 });
    if (existing && existing.status !== "creating") {
      const explanation = isDeleted(existing) ? "; ids of deleted tenants are not given out again" : "";
      return fail("already_exists", `The tenant id '${id}' is taken${explanation}.`, { param: "id" });
    }
    this.#sql.exec(
      "INSERT INTO tenants (id, name, status, created_at) VALUES (?, ?, 'creating', ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name",
      id,
      name,
      toSeconds(Date.now()),
    );
    this.#creatingIds.add(id);
    const created = await getLedger(this.env.TENANT, id)
      .create(id, name, key)
      .finally(() => this.#creatingIds.delete(id));
    if (!created.ok) return created;
    return this.ctx.storage.transactionSync(() => {
      const row = this.#find(id);
      if (!row) return fail("not_found", `No tenant '${id}'.`);
      const tenant = toTenant(row);
      const saveResult = idempotency.saveResponse(this.#sql, claim, {
        status: 201,
        body: { ...tenant, key: created.value },
      });
      if (!saveResult.ok) return saveResult;
      this.#sql.exec("UPDATE tenants SET status = 'active' WHERE id = ? AND status = 'creating'", id);
      return ok({ tenant, key: created.value });
    });
  }

  async get(id: string): Promise<Result<Tenant>> {
    const row = this.#find(id);
    return row ? ok(toTenant(row)) : fail("not_found", `No tenant '${id}'.`);
  }

  async list(request: PageRequest): Promise<Result<List<Tenant>>> {
    return paginate(request, {
      findPosition: (id) => this.#find(id)?.rowid ?? null,
      readRows: (cursor, count) =>
        this.#sql
          .exec<Row>("SELECT rowid, * FROM tenants WHERE rowid < ? ORDER BY rowid DESC LIMIT ?", cursor, count)
          .toArray(),
      toObject: toTenant,
    });
  }

  /** Renames, suspends or activates a tenant: one change after the other, so that both ledgers end with the same. */
  update(id: string, change: TenantChange): Promise<Result<Tenant>> {
    const done = this.#lastUpdate.then(() => this.#update(id, change));
    this.#lastUpdate = done.catch(() => undefined);
    return done;
  }

  /** Changes the tenant's ledger first, so that a call that was cut off can be repeated. */
  async #update(id: string, change: TenantChange): Promise<Result<Tenant>> {
    const row = this.#find(id);
    if (!row || isDeleted(row)) return fail("not_found", `No tenant '${id}'.`);
    if (row.status === "creating")
      return fail("request_in_progress", `The tenant '${id}' is being created.`, { param: "id", retryAfter: 1 });
    const updated = await getLedger(this.env.TENANT, id).update(change);
    if (!updated.ok) return updated;
    this.#sql.exec(
      "UPDATE tenants SET name = coalesce(?, name), status = coalesce(?, status) WHERE id = ? AND status IN ('active', 'suspended')",
      change.name ?? null,
      change.status ?? null,
      id,
    );
    return this.get(id);
  }

  /** Marks the tenant for deletion. Its ledger then refuses everything, and the alarm deletes what the tenant had. */
  async delete(id: string): Promise<Result<Tenant>> {
    const row = this.#find(id);
    if (!row) return fail("not_found", `No tenant '${id}'.`);
    if (this.#creatingIds.has(id))
      return fail("request_in_progress", `The tenant '${id}' is being created.`, { param: "id", retryAfter: 1 });
    if (isDeleted(row)) return ok(toTenant(row));
    this.#sql.exec("UPDATE tenants SET status = 'deleting', erase_at = ? WHERE id = ?", Date.now(), id);
    await this.ctx.storage.setAlarm(Date.now());
    await getLedger(this.env.TENANT, id).beginDeletion();
    return ok(toTenant({ ...row, status: "deleting" }));
  }

  override async alarm(): Promise<void> {
    const now = Date.now();
    // One tenant per alarm, because a request may make 1,000 calls. The next alarm follows at once.
    const row = this.#sql
      .exec<Row>("SELECT rowid, * FROM tenants WHERE erase_at <= ? ORDER BY erase_at LIMIT 1", now)
      .toArray()[0];
    if (row) {
      try {
        const next = await this.#eraseBatch(row);
        this.#sql.exec("UPDATE tenants SET erase_at = ? WHERE id = ?", next, row.id);
      } catch (error) {
        console.error(JSON.stringify({ event: "erase_failed", tenant: row.id, error: String(error) }));
        this.#sql.exec("UPDATE tenants SET erase_at = ? WHERE id = ?", now + RETRY_MS, row.id);
      }
    }
    const next = this.#sql.exec<{ at: number | null }>("SELECT min(erase_at) AS at FROM tenants").one().at;
    if (next !== null) await this.ctx.storage.setAlarm(next);
  }

  /** Runs one bounded step of a deletion. Answers when to run the next, or null when all is done. */
  async #eraseBatch(row: Row): Promise<number | null> {
    if (row.status === "deleted") return eraseTenantBytes(this.env.KV, this.env.BUCKET, row.id, Date.now());
    const next = await getLedger(this.env.TENANT, row.id).erase(row.id);
    if (next !== null) return next;
    this.ctx.storage.transactionSync(() => {
      this.#sql.exec("UPDATE tenants SET name = NULL WHERE id = ?", row.id);
      this.#sql.exec("DELETE FROM idempotency WHERE json_extract(body, '$.id') = ?", row.id);
    });
    await this.#rewriteFile();
    this.#sql.exec("UPDATE tenants SET status = 'deleted' WHERE id = ?", row.id);
    return Date.now() + FINAL_SWEEP_DELAY_MS;
  }

  /**
   * Has the server, if this runs on a machine of its own, write the directory's file anew: deleted rows stay in free
   * pages otherwise. No other call runs meanwhile, since a write would fail.
   */
  async #rewriteFile(): Promise<void> {
    const { DIRECTORY_FILE: file } = this.env;
    if (file === undefined) return;
    await this.ctx.storage.sync();
    const isRewritten = await this.ctx.blockConcurrencyWhile(() =>
      file.fetch("http://directory/").then(
        ({ ok }) => ok,
        () => false,
      ),
    );
    if (!isRewritten) throw new Error("The directory's file could not be written anew.");
  }
}

export function getDirectory(namespace: Cloudflare.Env["DIRECTORY"]): Remote<Directory> {
  return namespace.get(namespace.idFromName("directory")) as unknown as Remote<Directory>;
}
