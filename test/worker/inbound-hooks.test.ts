import { createHmac } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { call, newTenant, tenantWithTickets } from "./api.ts";

let key: string;
beforeAll(async () => {
  ({ key } = await tenantWithTickets());
  expect((await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets" })).status).toBe(201);
});
test("happy", async () => {
  const made = await call("POST", "/v1/inbound_hooks", key, { name: "gh", action: "learn", dataset: "tickets", fields: { text: "/issue/title", label: "/label/name", id: "/issue/id" }, verify: { scheme: "hmac_sha256", header: "X-Hub-Signature-256", prefix: "sha256=", encoding: "hex" } });
  expect(made.status, made.text).toBe(201);
  const path = new URL(made.json.url).pathname;
  const body = JSON.stringify({ issue: { title: "my parcel was stolen", id: 7 }, label: { name: "shipping" } });
  const sig = "sha256=" + createHmac("sha256", made.json.secret).update(body).digest("hex");
  for (const r of [null, "true"]) {
    const a = await call("POST", path, undefined, body, { "x-hub-signature-256": sig });
    expect(a.status, a.text).toBe(200);
    expect(a.headers.get("idempotent-replayed")).toBe(r);
    console.log(a.text);
  }
  const p = await call("POST", "/v1/inbound_hooks", key, { name: "gh", action: "predict", head: "support", fields: { text: ["/a", "/b"] }, verify: { scheme: "none" } });
  expect(p.status, p.text).toBe(201);
  const a = await call("POST", new URL(p.json.url).pathname, undefined, JSON.stringify({ a: "parcel", b: "late" }));
  expect(a.status, a.text).toBe(200);
  console.log(a.text);
  const f = await call("POST", "/v1/heads/support/feedback", key, { examples: [{ text: "parcel gone", label: "shipping" }, { text: "x" }] });
  console.log(f.text);
  const pol = await call("PUT", "/v1/heads/support/policy", key, { retrain_after_examples: 1, promote: "always" });
  console.log(pol.text);
  await expect.poll(async () => (await call("GET", "/v1/heads/support", key)).json.version, { timeout: 10000 }).toBe(2);
  console.log((await call("GET", "/v1/heads/support/policy", key)).text);
});
