/** Pages of every list, read by a client that deletes what it has read. */
import { SELF } from "cloudflare:test";
import OpenAI, { toFile } from "openai";
import { expect, test, vi } from "vitest";
import { deleteOldPositions } from "../../src/tenant/deleted-positions.ts";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { expectError } from "./assertions.ts";
import { inLedger } from "./fake-batch-endpoint.ts";
import { newHook } from "./inbound-hooks.ts";
import { mockReceivers, newReceiver, newTenantWithEndpoint, sendTestEvent } from "./webhooks.ts";

mockReceivers();

const newOpenAi = (apiKey: string) =>
  new OpenAI({
    apiKey,
    baseURL: "http://graft.test/v1",
    maxRetries: 0,
    fetch: (url, init) => SELF.fetch(url as string, init as RequestInit),
  });

async function create(path: string, key: string, body: object): Promise<string> {
  const answer = await call("POST", path, key, body);
  expect(answer.status, answer.text).toBe(201);
  return answer.json.id;
}

const newDataset = (key: string, i: number) =>
  create("/v1/datasets", key, { name: `d${i}`, task: "single_label", modality: "text" });

async function newFile(key: string, i: number): Promise<string> {
  const file = await toFile(Buffer.from('{"text":"a","label":"x"}\n{"text":"b","label":"y"}'), `${i}.jsonl`);
  return (await newOpenAi(key).files.create({ file, purpose: "fine-tune" })).id;
}

const lists: Record<string, (key: string, i: number) => Promise<string>> = {
  "/v1/datasets": newDataset,
  "/v1/heads": (key, i) =>
    create("/v1/heads", key, { name: `h${i}`, dataset: "tickets", evaluation: { method: "none" } }),
  "/v1/files": newFile,
  "/v1/api_keys": (key, i) => create("/v1/api_keys", key, { name: `k${i}`, scopes: ["train"] }),
  "/v1/webhook_endpoints": (key) =>
    create("/v1/webhook_endpoints", key, { url: newReceiver().url, events: ["webhook.test"] }),
  "/v1/inbound_hooks": async (key) => (await newHook(key, { head: "support" })).id,
};

test.each(Object.entries(lists))("%s can be deleted while it is read, page after page", async (path, add) => {
  const { key } = await tenantWithTickets();
  if (path === "/v1/inbound_hooks") await create("/v1/heads", key, { name: "support", dataset: "tickets" });
  const ids: string[] = [];
  for (let i = 0; i < 5; i++) ids.unshift(await add(key, i));
  const deleted: string[] = [];
  let after = "";
  while (deleted.length < ids.length) {
    const page = await call("GET", `${path}?limit=2${after}`, key);
    expect(page.status, page.text).toBe(200);
    for (const { id } of page.json.data.slice(0, ids.length - deleted.length)) {
      expect((await call("DELETE", `${path}/${id}`, key)).status).toBe(200);
      deleted.push(id);
    }
    after = `&after=${page.json.last_id}`;
  }
  expect(deleted).toEqual(ids);
});

test("a client of OpenAI's deletes every file as it lists them, newest or oldest first", async () => {
  const { key } = await newTenant();
  const client = newOpenAi(key);
  for (const order of ["desc", "asc"] as const) {
    const ids: string[] = [];
    for (let i = 0; i < 7; i++) ids.push(await newFile(key, i));
    const deleted: string[] = [];
    for await (const { id } of client.files.list({ limit: 3, order })) {
      await client.files.delete(id);
      deleted.push(id);
    }
    expect(deleted).toEqual(order === "asc" ? ids : ids.toReversed());
    expect((await client.files.list()).data).toEqual([]);
  }
});

test("a client of OpenAI's goes on after a job that has made room for newer ones", async () => {
  const owner = await tenantWithTickets();
  const jobs: string[] = [];
  const client = newOpenAi(owner.key).fineTuning.jobs;
  for (let i = 0; i < 4; i++)
    jobs.unshift((await client.create({ model: "hash-text-1", training_file: "dataset:tickets" })).id);
  const listed: string[] = [];
  for await (const { id } of client.list({ limit: 2 })) {
    listed.push(id);
    await inLedger(owner.id, ({ sql }) => sql.exec("DELETE FROM jobs WHERE id = ?", id));
  }
  expect(listed).toEqual(jobs);
});

test("deliveries go on after one that went with its endpoint", async () => {
  const endpoint = await newTenantWithEndpoint();
  const oldest = await sendTestEvent(endpoint);
  const other = await create("/v1/webhook_endpoints", endpoint.key, { url: newReceiver().url, events: ["*"] });
  const newest = (await call("POST", `/v1/webhook_endpoints/${other}/test`, endpoint.key)).json.id;
  await call("DELETE", `/v1/webhook_endpoints/${other}`, endpoint.key);
  const path = "/v1/webhook_deliveries";
  await vi.waitUntil(async () => (await call("GET", `${path}/${newest}`, endpoint.key)).status === 404);
  const { data } = (await call("GET", `${path}?after=${newest}`, endpoint.key)).json;
  expect(data.map(({ id }: { id: string }) => id)).toEqual([oldest.id]);
});

test("a name that was taken again stands where it is now", async () => {
  const { key } = await newTenant();
  for (let i = 0; i < 3; i++) await newDataset(key, i);
  const names = async (query: string) =>
    (await call("GET", `/v1/datasets?${query}`, key)).json.data.map(({ id }: { id: string }) => id);
  await call("DELETE", "/v1/datasets/d1", key);
  expect(await names("after=d1")).toEqual(["d0"]);
  await newDataset(key, 1);
  expect(await names("after=d1")).toEqual(["d2", "d0"]);
});

test("positions are kept for a day, of the tenant itself alone", async () => {
  const [{ id, key }, other] = [await newTenant(), await newTenant()];
  await newDataset(key, 1);
  await call("DELETE", "/v1/datasets/d1", key);
  const path = "/v1/datasets?after=d1";
  expectError(await call("GET", path, other.key), 400, "invalid_parameter", "after");
  const expire = () => inLedger(id, ({ sql }) => deleteOldPositions(sql, Date.now()));
  await expire();
  expect((await call("GET", path, key)).json.data).toEqual([]);
  await inLedger(id, ({ sql }) => sql.exec("UPDATE deleted_positions SET deleted_at = deleted_at - 86400"));
  expect(await expire()).toBe(false);
  expectError(await call("GET", path, key), 400, "invalid_parameter", "after");
});
