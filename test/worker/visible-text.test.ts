/** Characters that nobody sees, such as soft hyphens, in texts: embeddings, predictions and heads from before they were left out. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, expect, test } from "vitest";
import { encodeHead } from "../../src/core/codec.ts";
import { sha256Hex } from "../../src/lib/hash.ts";
import { storeBytes } from "../../src/store/content-addressed.ts";
import { getHead } from "../../src/store/heads.ts";
import { headKey } from "../../src/store/keys.ts";
import type { Tenant } from "../../src/tenant/tenant.ts";
import { call, tenantWithTickets } from "./api.ts";
import { expectError } from "./assertions.ts";

const plain = "the parcel is late, refund my invoice";
const divided = "the par\u00adcel is\u200b late, re\u2060fund my invoice\ufeff";
let tenant: string;
let key: string;

beforeAll(async () => {
  ({ id: tenant, key } = await tenantWithTickets());
});

async function trainHead(name: string): Promise<string> {
  const body = { name, dataset: "tickets", hyperparameters: { lexical: true } };
  const answer = await call("POST", "/v1/heads", key, body);
  expect(answer.status, answer.text).toBe(201);
  return answer.json.sha256;
}

const predict = async (name: string) =>
  (await call("POST", `/v1/heads/${name}/predict`, key, { input: [plain, divided], top_k: 5 })).json.data.map(
    ({ scores }: { scores: unknown }) => scores,
  );

test.each(["text-static-1", "hash-text-1"])("do not change an embedding of %s", async (model) => {
  const { data } = (await call("POST", "/v1/embeddings", key, { model, input: [plain, divided] })).json;
  expect(data[1].embedding).toEqual(data[0].embedding);
});

test("are no text", async () => {
  const answer = await call("POST", "/v1/embeddings", key, {
    model: "hash-text-1",
    input: ["a", "\u00ad\u200b \ufeff"],
  });
  expectError(answer, 422, "input_empty", "input[1]");
});

test("do not change a prediction, and are compared as before by an import", async () => {
  await trainHead("new");
  const [first, second] = await predict("new");
  expect(second).toEqual(first);
  expect((await call("GET", "/v1/heads/new/versions/1/export", key)).json.visible_text).toBe(true);
  const examples = [plain, divided].map((text) => ({ text, label: "shipping" }));
  expect((await call("POST", "/v1/datasets/tickets/examples", key, { examples })).json.added).toBe(2);
});

test("are read by a head that was stored before they were left out", async () => {
  const sha256 = await trainHead("old");
  const head = await getHead(env.KV, env.BUCKET, tenant, sha256);
  const bytes = encodeHead({ ...(head ?? expect.unreachable()), visibleText: false });
  const oldSha256 = sha256Hex(bytes);
  await storeBytes(env.BUCKET, headKey(tenant, oldSha256), bytes);
  await runInDurableObject(env.TENANT.get(env.TENANT.idFromName(tenant)), (_: Tenant, { storage }) => {
    const update = "UPDATE head_versions SET record = replace(record, ?1, ?2), sha256 = ?2 WHERE sha256 = ?1";
    storage.sql.exec(update, sha256, oldSha256);
  });
  const [first, second] = await predict("old");
  expect(second).not.toEqual(first);
  expect((await call("GET", "/v1/heads/old/versions/1/export", key)).json.visible_text).toBe(false);
});
