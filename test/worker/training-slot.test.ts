/** Who of those that wait for a slot gets it. */
import { afterEach, describe, expect, test, vi } from "vitest";
import { Slot } from "../../src/training/slot.ts";

const { signal } = new AbortController();

/** Takes the slot for a tenant, writes its name down, and releases it after `work`. */
async function run(slot: Slot, tenant: string, order: string[], work: Promise<void> = Promise.resolve()) {
  const acquired = await slot.acquire({ tenant, signal }, () => undefined);
  if (!acquired.ok) return acquired;
  order.push(tenant);
  await work;
  acquired.value();
  return acquired;
}

/** A slot that a tenant holds until `release` is called. */
async function holdSlot(tenant: string) {
  const slot = new Slot();
  const held = Promise.withResolvers<void>();
  const order: string[] = [];
  const holding = run(slot, tenant, order, held.promise);
  await vi.waitUntil(() => slot.holder !== null);
  return { slot, order, holding, release: held.resolve };
}

const waitsAlready = { ok: false, failure: { code: "capacity_exceeded", retryAfter: 5 } };

describe("a slot", () => {
  afterEach(() => vi.restoreAllMocks());

  test("goes to the tenant that had it least recently, not to the one that asked first", async () => {
    const { slot, order, holding, release } = await holdSlot("busy");
    const waiting = ["busy", "idle", "new"].map((tenant) => run(slot, tenant, order));
    release();
    await Promise.all([holding, ...waiting]);
    expect(order).toEqual(["busy", "idle", "new", "busy"]);
    const again = await holdSlotOf(slot, "new");
    const next = ["busy", "new", "idle", "newest"].map((tenant) => run(slot, tenant, order));
    again.release();
    await Promise.all([again.holding, ...next]);
    expect(order.slice(4)).toEqual(["newest", "idle", "busy", "new"]);
  });

  test("lets one training of a tenant wait, and refuses the next at once, but none of another tenant", async () => {
    const { slot, order, holding, release } = await holdSlot("busy");
    const waiting = run(slot, "busy", order);
    const startedAt = Date.now();
    const refused = await Promise.all(Array.from({ length: 6 }, () => run(slot, "busy", order)));
    expect(Date.now() - startedAt).toBeLessThan(40);
    for (const result of refused) expect(result).toMatchObject(waitsAlready);
    const other = run(slot, "other", order);
    release();
    for (const result of await Promise.all([holding, waiting, other])) expect(result.ok).toBe(true);
    expect(order).toEqual(["busy", "other", "busy"]);
    expect((await run(slot, "busy", order)).ok).toBe(true);
  });

  test("is not waited for by a training whose client has gone, nor by one that has ended without a word", async () => {
    const { slot, order, holding, release } = await holdSlot("busy");
    const client = new AbortController();
    const left = slot.acquire({ tenant: "left", signal: client.signal }, () => undefined);
    client.abort();
    expect(await left).toMatchObject({ ok: false, failure: { code: "upload_incomplete" } });
    expect((await slot.acquire({ tenant: "left", signal: client.signal }, () => undefined)).ok).toBe(false);

    // The platform has ended the request: its timer never fires.
    vi.spyOn(scheduler, "wait").mockImplementationOnce(() => new Promise(() => undefined));
    void run(slot, "dead", order);
    const waiting = run(slot, "waiting", order);
    expect(await run(slot, "dead", order)).toMatchObject(waitsAlready);
    const now = Date.now() + 1_001;
    vi.spyOn(Date, "now").mockImplementation(() => now);
    const successor = run(slot, "dead", order);
    release();
    await Promise.all([holding, waiting, successor]);
    expect(order.toSorted()).toEqual(["busy", "dead", "waiting"]);
  });

  test("is refused after a minute, and is free for the next who asks", async () => {
    const { slot, order, holding, release } = await holdSlot("busy");
    const waiting = run(slot, "other", order);
    const now = Date.now() + 60_001;
    if (slot.holder !== null) slot.holder.lastHeartbeat = now;
    vi.spyOn(Date, "now").mockImplementation(() => now);
    expect(await waiting).toMatchObject({ ok: false, failure: { code: "capacity_exceeded", retryAfter: 5 } });
    release();
    await holding;
    expect((await run(slot, "other", order)).ok).toBe(true);
  });
});

async function holdSlotOf(slot: Slot, tenant: string) {
  const held = Promise.withResolvers<void>();
  const holding = run(slot, tenant, [], held.promise);
  await vi.waitUntil(() => slot.holder !== null);
  return { holding, release: held.resolve };
}
