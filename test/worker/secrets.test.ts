/** Secrets of webhook endpoints and inbound hooks at rest: encrypted, and encrypted again when the server key changes. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, test, vi } from "vitest";
import { sha256Hex } from "../../src/lib/hash.ts";
import { type Ledger, Tenant } from "../../src/tenant/tenant.ts";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { inLedger, listDueTasks, tenantStub, WAIT_OPTIONS } from "./fake-batch-endpoint.ts";
import { newLearnHook, postAccepted, postToHook } from "./inbound-hooks.ts";
import { type Endpoint, getDelivery, mockReceivers, newEndpoint, sendTestEvent, verifyWebhook } from "./webhooks.ts";

mockReceivers();

const rotatedEnv = { ...env, SERVER_KEY: "the-next-server-key", PREVIOUS_SERVER_KEY: env.SERVER_KEY };

/** What every text column and blob of the ledger holds. */
async function dumpLedger(tenant: string): Promise<string> {
  return inLedger(tenant, ({ sql }) => {
    const tables = sql
      .exec<{ name: string }>("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB '_cf_*'")
      .toArray();
    const values = tables.flatMap(({ name }) =>
      sql
        .exec(`SELECT * FROM "${name}"`)
        .toArray()
        .flatMap((row) => Object.values(row)),
    );
    return values
      .map((value) => (value instanceof ArrayBuffer ? Buffer.from(value).toString("latin1") : String(value)))
      .join("\n");
  });
}

/** Starts the ledger's object with the variables given, as after a restart, and runs what is due then. */
function restart<T>(tenant: string, variables: Cloudflare.Env, work: (ledger: Ledger) => T | Promise<T>): Promise<T> {
  return runInDurableObject(tenantStub(tenant), async (_: Tenant, state) => {
    const instance = new Tenant(state, variables);
    await instance.alarm();
    return work(instance as unknown as Ledger);
  });
}

interface Secrets {
  readonly tenant: string;
  readonly endpoint: Endpoint;
  readonly rotated: string;
  readonly hook: Awaited<ReturnType<typeof newLearnHook>>;
  readonly given: Awaited<ReturnType<typeof newLearnHook>>;
  readonly all: readonly string[];
}

/** A tenant with an endpoint whose secret was rotated, a hook with a secret made here and one with a secret given. */
async function tenantWithSecrets(): Promise<Secrets> {
  const { id: tenant, key } = await tenantWithTickets();
  const endpoint = await newEndpoint({ id: tenant, key });
  const rotation = await call("POST", `/v1/webhook_endpoints/${endpoint.id}/rotate_secret`, key);
  const rotated = rotation.json.secret;
  const hook = await newLearnHook(key, {}, "standard");
  const verify = { scheme: "hmac_sha256", header: "x-hub-signature-256", prefix: "sha256=", encoding: "hex" };
  const secret = "a secret of the other system's";
  const given = { ...(await newLearnHook(key, { verify: { ...verify, secret } }, "github")), secret };
  return { tenant, endpoint, rotated, hook, given, all: [endpoint.secret, rotated, hook.secret, given.secret] };
}

async function expectWorking({ tenant, endpoint, rotated, hook, given }: Secrets): Promise<void> {
  const arrivals = endpoint.arrivals.length;
  await sendTestEvent(endpoint);
  await vi.waitUntil(() => endpoint.arrivals.length > arrivals, WAIT_OPTIONS);
  for (const secret of [endpoint.secret, rotated])
    expect(verifyWebhook(endpoint.arrivals[arrivals], secret)).toMatchObject({ type: "webhook.test" });
  for (const learner of [hook, given])
    await postAccepted(learner, { text: `a message to ${tenant}`, label: "billing", id: crypto.randomUUID() });
}

test("the ledger holds no secret in clear text, and all of them work", async () => {
  const secrets = await tenantWithSecrets();
  await expectWorking(secrets);
  const dump = await dumpLedger(secrets.tenant);
  expect(dump).not.toContain("whsec_");
  for (const secret of secrets.all) expect(dump).not.toContain(secret);
  expect(await listDueTasks(secrets.tenant, "encrypt_secrets")).toEqual([]);
});

describe("secrets that an earlier build stored as text", () => {
  test("work, and are encrypted when the ledger starts", async () => {
    const secrets = await tenantWithSecrets();
    const { tenant, endpoint, rotated, hook, given } = secrets;
    await inLedger(tenant, ({ sql }) => {
      sql.exec("UPDATE webhook_endpoints SET secret = ?, previous_secret = ?", rotated, endpoint.secret);
      for (const { id, secret } of [hook, given])
        sql.exec("UPDATE inbound_hooks SET secret = ? WHERE id = ?", secret, id);
      sql.exec("UPDATE ledger SET secrets_key = NULL");
    });
    await expectWorking(secrets);
    expect(await dumpLedger(tenant)).toContain("whsec_");

    await restart(tenant, env, () => undefined);
    expect(await dumpLedger(tenant)).not.toContain("whsec_");
    expect(await listDueTasks(tenant, "encrypt_secrets")).toEqual([]);
    await expectWorking(secrets);
  });
});

describe("after a rotation of the server key", () => {
  test("secrets are read with the previous key, then encrypted under the new one", async () => {
    const secrets = await tenantWithSecrets();
    const { tenant, hook } = secrets;
    const tokenHash = sha256Hex(hook.path.slice("/v1/inbound/".length));
    const before = await dumpLedger(tenant);
    const readByHook = async (ledger: Ledger) => {
      const found = await ledger.findHookByToken(tokenHash);
      return found.ok ? found.value.secret : found.failure.code;
    };
    // Without the task: the row is still under the previous key.
    const read = await runInDurableObject(tenantStub(tenant), (_: Tenant, state) =>
      readByHook(new Tenant(state, rotatedEnv) as unknown as Ledger),
    );
    expect(read).toBe(hook.secret);
    expect(await listDueTasks(tenant, "encrypt_secrets")).toHaveLength(1);

    await restart(tenant, rotatedEnv, () => undefined);
    expect(await listDueTasks(tenant, "encrypt_secrets")).toEqual([]);
    expect(await dumpLedger(tenant)).not.toBe(before);
    const { PREVIOUS_SERVER_KEY: _removed, ...withoutPrevious } = rotatedEnv;
    expect(await restart(tenant, withoutPrevious, readByHook)).toBe(hook.secret);

    // Back again, for the object that the other tests' calls reach.
    await restart(tenant, { ...env, PREVIOUS_SERVER_KEY: rotatedEnv.SERVER_KEY }, () => undefined);
    await expectWorking(secrets);
  });

  test("whose previous key was lost, deliveries fail with the reason, and others go on", async () => {
    const logged = vi.spyOn(console, "error").mockImplementation(() => undefined);
    const secrets = await tenantWithSecrets();
    const { tenant, endpoint, hook } = secrets;
    await restart(tenant, rotatedEnv, () => undefined);
    const other = await newEndpoint({ id: tenant, key: endpoint.key });
    // This server has neither of the keys that the first endpoint's secrets are under.
    const { id } = await sendTestEvent(endpoint);
    await vi.waitUntil(async () => (await getDelivery(endpoint, id)).attempts[0]?.error, WAIT_OPTIONS);
    const delivery = await getDelivery(endpoint, id);
    expect(delivery).toMatchObject({ status: "pending", attempts: [{ status: null }] });
    expect(delivery.attempts[0].error).toMatch(/^It could not be signed/);
    expect(endpoint.arrivals).toEqual([]);
    await sendTestEvent(other);
    await vi.waitUntil(() => other.arrivals.length === 1, WAIT_OPTIONS);
    verifyWebhook(other.arrivals[0], other.secret);

    const message = await postToHook(hook, { text: "a message", label: "billing", id: "m1" });
    expect(message.status).toBe(503);
    expect(message.json.error.code).toBe("storage_unavailable");
    await restart(tenant, env, () => undefined);
    expect(logged.mock.calls.join("\n")).toContain('"event":"secret_unreadable"');
    expect(logged.mock.calls.join("\n")).toContain(endpoint.id);
    logged.mockRestore();

    // A new secret makes the endpoint work again.
    const rotation = await call("POST", `/v1/webhook_endpoints/${endpoint.id}/rotate_secret`, endpoint.key);
    await call("POST", `/v1/webhook_deliveries/${id}/redeliver`, endpoint.key);
    await vi.waitUntil(() => endpoint.arrivals.length === 1, WAIT_OPTIONS);
    expect(verifyWebhook(endpoint.arrivals[0], rotation.json.secret)).toMatchObject({ type: "webhook.test" });
  });
});

test("a ciphertext is of no use in another owner's row", async () => {
  const { id: tenant, key } = await newTenant();
  const [first, second] = [await newEndpoint({ id: tenant, key }), await newEndpoint({ id: tenant, key })];
  await inLedger(tenant, ({ sql }) =>
    sql.exec(
      "UPDATE webhook_endpoints SET secret = (SELECT secret FROM webhook_endpoints WHERE id = ?) WHERE id = ?",
      first.id,
      second.id,
    ),
  );
  const { id } = await sendTestEvent(second);
  await vi.waitUntil(async () => (await getDelivery(second, id)).attempts[0]?.error, WAIT_OPTIONS);
  expect(second.arrivals).toEqual([]);
});
