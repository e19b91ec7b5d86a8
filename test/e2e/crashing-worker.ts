/**
 * The Worker of test/e2e/crash.slow.test.ts: the real one, whose writes are counted. Ahead of the write that the test has named
 * it prints a marker and stands still, so that the test can kill the process between that write and the one before.
 */

import { Directory as RealDirectory } from "../../src/tenant/directory.ts";
import { runMaintenanceTask } from "../../src/tenant/tasks/maintenance.ts";
import { Tenant as RealTenant } from "../../src/tenant/tenant.ts";
import worker from "../../src/worker.ts";

const HOUR = 3_600_000;

/** Writes until the crash; 0 is never. One isolate runs everything, so this is seen by all of it. */
let writesLeft = 0;

function beforeWrite(description: string): void {
  if (writesLeft === 0 || --writesLeft > 0) return;
  console.log(`crash before ${description}`);
  // Nothing else of this process may go on, not even what is already under way.
  for (;;);
}

/** A binding whose named methods count as writes. */
function countWrites<T extends object>(binding: T, name: string, methods: readonly string[]): T {
  return new Proxy(binding, {
    get(target, property) {
      const value = Reflect.get(target, property);
      if (typeof value !== "function") return value;
      return (...args: unknown[]) => {
        if (methods.includes(String(property))) beforeWrite(`${name}.${String(property)}`);
        return value.apply(target, args);
      };
    },
  });
}

function countEnvWrites(env: Cloudflare.Env): Cloudflare.Env {
  return {
    ...env,
    KV: countWrites(env.KV, "KV", ["put", "delete"]),
    BUCKET: countWrites(env.BUCKET, "R2", ["put", "delete"]),
  };
}

/** Storage in which a transaction is one write, and so is each statement outside of one. */
function countStorageWrites(ctx: DurableObjectState): DurableObjectState {
  const real = ctx.storage;
  let inTransaction = false;
  const sql = new Proxy(real.sql, {
    get(target, property) {
      const value = Reflect.get(target, property);
      if (property !== "exec") return value;
      return (query: string, ...bindings: unknown[]) => {
        if (!inTransaction && !/^\s*SELECT/i.test(query)) beforeWrite(`SQL ${query.trim().slice(0, 40)}`);
        return target.exec(query, ...bindings);
      };
    },
  });
  const methods = countWrites(real, "storage", ["setAlarm", "deleteAlarm", "deleteAll"]);
  const storage = new Proxy(methods, {
    get(target, property) {
      if (property === "sql") return sql;
      if (property !== "transactionSync") return Reflect.get(target, property);
      return (work: () => unknown) => {
        beforeWrite("transaction");
        inTransaction = true;
        try {
          return real.transactionSync(work);
        } finally {
          inTransaction = false;
        }
      };
    },
  });
  return Object.defineProperty(ctx, "storage", { value: storage });
}

export class Tenant extends RealTenant {
  constructor(ctx: DurableObjectState, env: Cloudflare.Env) {
    super(countStorageWrites(ctx), countEnvWrites(env));
  }

  /** Sweeps as if everything were two hours old; answers the names of the blocks that the ledger knows. */
  async sweepNow(tenant: string): Promise<string[]> {
    const task = { id: 0, kind: "sweep", ref: "", attempts: 0 } as const;
    const { storage } = this.ctx;
    await runMaintenanceTask(
      { kv: this.env.KV, bucket: this.env.BUCKET, storage, tenant, exclusive: (work) => work() },
      task,
      Date.now() + 2 * HOUR,
    );
    return storage.sql
      .exec<{ key: string }>("SELECT key FROM blocks")
      .toArray()
      .map(({ key }) => key);
  }

  /** When work is due next, in milliseconds since the epoch; null if none is left. */
  getNextAlarm(): Promise<number | null> {
    return this.ctx.storage.getAlarm();
  }

  /** How much work is due now. */
  async countOverdue(): Promise<number> {
    const query = "SELECT count(*) AS n FROM due WHERE run_at <= ?";
    return this.ctx.storage.sql.exec<{ n: number }>(query, Date.now() + 1000).one().n;
  }
}

export class Directory extends RealDirectory {
  constructor(ctx: DurableObjectState, env: Cloudflare.Env) {
    super(countStorageWrites(ctx), countEnvWrites(env));
  }
}

async function listStored(env: Cloudflare.Env, tenant: string) {
  const prefix = `tenants/${tenant}/`;
  const [kv, r2] = await Promise.all([env.KV.list({ prefix }), env.BUCKET.list({ prefix })]);
  return { kv: kv.keys.map(({ name }) => name), r2: r2.objects.map(({ key }) => key) };
}

export default {
  async fetch(request: Request, env: Cloudflare.Env, context: ExecutionContext): Promise<Response> {
    const url = new URL(request.url);
    const tenant = url.searchParams.get("tenant") ?? "";
    const ledger = () => env.TENANT.get(env.TENANT.idFromName(tenant)) as unknown as Tenant;
    switch (url.pathname) {
      case "/crash":
        writesLeft = Number(url.searchParams.get("before"));
        return new Response();
      case "/stored":
        return Response.json(await listStored(env, tenant));
      case "/alarm":
        return Response.json(await ledger().getNextAlarm());
      case "/overdue":
        return Response.json(await ledger().countOverdue());
      case "/sweep":
        return Response.json(await ledger().sweepNow(tenant));
    }
    const response = await worker.fetch(request, countEnvWrites(env), context);
    beforeWrite("answer");
    return response;
  },
};
