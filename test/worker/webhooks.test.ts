/** Webhook endpoints and deliveries as their owner sees them. */
import { expect, test, vi } from "vitest";
import { deliveryOf, ping, playReceivers, tenantWithEndpoint, verified } from "./webhooks.ts";

const PATIENCE = { timeout: 10_000, interval: 5 };
playReceivers();

test("an event is delivered, signed, at once", async () => {
  const endpoint = await tenantWithEndpoint();
  const { id } = await ping(endpoint);
  await vi.waitUntil(async () => (await deliveryOf(endpoint, id)).status === "succeeded", PATIENCE);
  console.log(
    JSON.stringify(verified(endpoint.arrivals[0], endpoint.secret)),
    JSON.stringify(await deliveryOf(endpoint, id)),
  );
  expect(endpoint.arrivals).toHaveLength(1);
});
