/** A webhook that is sent to the tenant's own inbound hook ends after a few rounds. */
import { expect, test, vi } from "vitest";
import { call, tenantWithTickets } from "./api.ts";
import { expectError } from "./assertions.ts";
import { WAIT_OPTIONS } from "./fake-batch-endpoint.ts";
import { type Hook, listEvents, newHook, newLearnHook, postAccepted, signatureHeaders } from "./inbound-hooks.ts";
import { type Endpoint, mockReceivers, newEndpoint, newTenantWithEndpoint, sendTestEvent } from "./webhooks.ts";

mockReceivers();

/** What the endpoint has received since, as it posts it to the hook. */
async function forward(endpoint: Endpoint, hook: Hook, index: number) {
  await vi.waitUntil(() => endpoint.arrivals.length > index, WAIT_OPTIONS);
  const arrival = endpoint.arrivals[index];
  if (arrival === undefined) throw new Error("nothing has come");
  return call("POST", hook.path, undefined, arrival.text, Object.fromEntries(arrival.headers));
}

async function tenantWithHead() {
  const tenant = await tenantWithTickets();
  expect((await call("POST", "/v1/heads", tenant.key, { name: "support", dataset: "tickets" })).status).toBe(201);
  return tenant;
}

test.each(["predict", "learn"] as const)(
  "a loop by the action '%s' makes four events of one message",
  async (action) => {
    const tenant = await tenantWithHead();
    const fields = { text: "/id", label: "/object", id: "/id" };
    const hook =
      action === "predict"
        ? await newHook(tenant.key, { fields: { text: "/id" } })
        : await newLearnHook(tenant.key, { fields, on_unknown_label: "add" });
    const type = action === "predict" ? "inbound.predicted" : "inbound.learned";
    const endpoint = await newEndpoint(tenant, { events: [type] });
    await postAccepted(hook, { id: "the first", object: "event" });
    for (const [index, hops] of ["1", "2", "3"].entries()) {
      const answer = await forward(endpoint, hook, index);
      expect(answer.status, answer.text).toBe(200);
      expect(endpoint.arrivals[index]?.headers.get("graft-hops")).toBe(hops);
    }
    const refused = await forward(endpoint, hook, 3);
    expectError(refused, 422, "limit_exceeded", "graft-hops");
    expect(refused.json.error.details).toEqual({ limit: 3, actual: 4 });
    expect(await listEvents(tenant.id, type)).toHaveLength(4);
  },
);

test("an event that no webhook has caused is the first in a row, in each of its attempts", async () => {
  const endpoint = await newTenantWithEndpoint();
  await sendTestEvent(endpoint);
  await vi.waitUntil(() => endpoint.arrivals.length === 1, WAIT_OPTIONS);
  expect(endpoint.arrivals[0]?.headers.get("graft-hops")).toBe("1");
});

test.each(["-1", "x", "1e9", "", "0x10"])("a header that says '%s' counts as none", async (value) => {
  const { key } = await tenantWithHead();
  const hook = await newHook(key);
  const body = JSON.stringify({ text: "refund me" });
  const headers = { ...signatureHeaders(hook, body), "graft-hops": value };
  expect((await call("POST", hook.path, undefined, body, headers)).status).toBe(200);
});
