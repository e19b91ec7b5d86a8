/** What a deleted tenant leaves in the files of a real server, which runs on. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, inject, test } from "vitest";
import { createClient } from "../../src/sdk/client.ts";
import { serve } from "../../src/server/runtime.ts";
import { waitFor } from "./processes.ts";

const adminKey = "operator-key-of-the-tests";
const stateDir = mkdtempSync(join(tmpdir(), "graft-deletion-"));
afterAll(() => rmSync(stateDir, { recursive: true, force: true, maxRetries: 3 }));

/** The files of the state folder, write-ahead logs included, that hold one of the texts, each with the text. */
function findTexts(texts: readonly string[]): string[] {
  const files = readdirSync(stateDir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return files.flatMap(({ parentPath, name }) => {
    const bytes = readFileSync(join(parentPath, name));
    return texts.filter((text) => bytes.includes(text)).map((text) => `${text} in ${join(parentPath, name)}`);
  });
}

/** A tenant with something of every kind that holds texts, labels or names, all of which have the mark in them. */
async function fillTenant(url: string, id: string, mark: string) {
  const operator = createClient({ baseUrl: url, key: adminKey });
  const { key } = await operator.tenants.create(
    { id, name: `${mark} tenant` },
    { idempotencyKey: `creation of ${id}` },
  );
  await operator.tenants.update(id, { name: `${mark} renamed, with a name that is longer` });
  await operator.tenants.createApiKey(id, { name: `${mark} key`, scopes: ["predict"] });
  const graft = createClient({ baseUrl: url, key: key.secret });
  await graft.datasets.create({ name: `${mark}-tickets`, task: "single_label", modality: "text" });
  const examples = Array.from({ length: 3_000 }, (_, i) => ({
    text: `${mark} text ${i}: ${i % 2 ? "refund the charge" : "cannot log in"}`,
    label: `${mark} ${i % 2 ? "billing" : "login"}`,
  }));
  for (let i = 0; i < examples.length; i += 1_000)
    await graft.datasets.add(`${mark}-tickets`, examples.slice(i, i + 1_000));
  await graft.heads.train({ name: `${mark}-support`, dataset: `${mark}-tickets`, evaluation: { method: "none" } });
  await graft.heads.feedback(`${mark}-support`, [{ text: `${mark} feedback`, label: `${mark} billing` }]);
  await graft.files.create(new Blob([examples.map((example) => JSON.stringify(example)).join("\n")]), `${mark}.jsonl`);
  await graft.webhookEndpoints.create({ url: `https://${mark}.example/`, events: ["*"], description: `${mark} desk` });
  await graft.inboundHooks.create({
    name: `${mark}-desk`,
    action: "learn",
    dataset: `${mark}-tickets`,
    fields: { text: "/text", label: "/label" },
    verify: { scheme: "none" },
  });
  return graft;
}

test("no file holds a byte of a deleted tenant's texts, labels and names; another tenant keeps its own", async () => {
  const server = await serve(inject("bundles").deployed, { port: 0, stateDir, adminKey, log: () => undefined });
  const operator = createClient({ baseUrl: server.url, key: adminKey });
  await fillTenant(server.url, "acme", "quixotic");
  const other = await fillTenant(server.url, "other", "steadfast");
  const kinds = ["quixotic tenant", "quixotic renamed", "quixotic text", "quixotic billing", "quixotic.jsonl"];
  expect(kinds.filter((text) => findTexts([text]).length === 0)).toEqual([]);

  await operator.tenants.delete("acme");
  await waitFor(async () => (await operator.tenants.get("acme")).status === "deleted", "the tenant is deleted");
  expect(findTexts(["quixotic"])).toEqual([]);
  expect((await operator.tenants.get("acme")).name).toBeNull();

  expect((await operator.tenants.get("other")).name).toMatch(/^steadfast renamed/);
  await operator.tenants.create({ id: "later" });
  const { data } = await other.heads.predict("steadfast-support", { input: "steadfast: refund the charge" });
  expect(data[0]?.label).toBe("steadfast billing");
  await server.stop();
  expect(findTexts(["quixotic"])).toEqual([]);
});
