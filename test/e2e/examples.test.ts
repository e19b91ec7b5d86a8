/** The programs under examples/, each run as its README says against the real local Worker. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import type { NewHead } from "../../src/sdk/client.ts";
import { type System, startSystem, type TenantClient, waitFor } from "./processes.ts";
import { startReceiver } from "./receivers.ts";

const examples = join(import.meta.dirname, "..", "..", "examples");
let folder: string;
let receiverUrl: string;
let system: System;
let tenant: TenantClient;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "graft-examples-"));
  // Its port is free once it is closed.
  const receiver = await startReceiver();
  receiverUrl = receiver.url;
  await receiver.close();
  system = await startSystem({ bundle: inject("bundles").crashing, worker: { WEBHOOK_ORIGINS: receiverUrl } });
  // The dataset and the head of the README.
  tenant = await system.createTenant("acme");
  const { datasets, heads } = tenant.graft;
  await datasets.create({ name: "tickets", task: "single_label", modality: "text" });
  await datasets.import("tickets", readFileSync(join(examples, "support-tickets.csv"), "utf8"), "text/csv");
  await heads.train({ name: "support", dataset: "tickets", method: "head" });
});
afterAll(async () => {
  await system?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Runs a program of the examples to its end; answers the lines that it prints. Throws where it fails. */
async function run(program: string, args: readonly string[] = [], env: Record<string, string> = {}): Promise<string[]> {
  const { stdout } = await promisify(execFile)(process.execPath, [join(examples, program), ...args], {
    env: { ...process.env, GRAFT_URL: system.url, GRAFT_KEY: tenant.key, ...env },
  });
  return stdout.trimEnd().split("\n");
}

test("help-desk: a ticket is classified, and the agent's tag learnt; again, nothing is new", async () => {
  const classified = expect.stringMatching(/^ticket 48211: billing_refund, score [01]\.\d\d \(support@1\)$/);
  expect(await run("help-desk/help-desk.mjs")).toEqual([classified, "ticket 48211: added (dataset tickets)"]);
  expect(await run("help-desk/help-desk.mjs")).toEqual([classified, "ticket 48211: unchanged (dataset tickets)"]);
  const { data } = await tenant.graft.datasets.examples("tickets", { limit: 1 });
  expect(data[0]).toMatchObject({ id: "48211", label: "billing_refund" });
  expect((await tenant.graft.inboundHooks.list()).data).toEqual([]);
});

test("openai-client: models, embeddings, a file and a job whose head predicts", async () => {
  expect(await run("openai-client/openai-client.mjs")).toEqual([
    "models: text-static-1, text-use-1, hash-text-1",
    "embeddings: 2 of 256 dimensions",
    expect.stringMatching(/^file: chats\.jsonl, \d+ bytes$/),
    "job: succeeded, model ft:text-static-1:router",
    expect.stringMatching(/^last event: The job has made version 1/),
    "prediction: shipping_delivery",
    "file deleted: true",
  ]);
});

describe("offline-head gives the service's own outputs", () => {
  const texts = [
    "I was charged twice for order AX-4711!",
    "Où est mon colis ? It doesn’t move, it DOESN'T",
    "３ ﬁles, ñandú, हिन्दी, 你好, 🙂🙂",
  ];
  const labelled = (target: (i: number) => object) =>
    Array.from({ length: 40 }, (_, i) => ({ text: `my ${i % 2 ? "parcel" : "refund"} number ${i}`, ...target(i) }));
  const tickets = { dataset: "tickets" };
  const cases: [string, Omit<NewHead, "name">][] = [
    ["embedding", { ...tickets, hyperparameters: { lexical: false } }],
    ["lexical", { ...tickets, hyperparameters: { lexical: true } }],
    ["multi-label", { examples: labelled((i) => ({ labels: i % 3 ? ["a"] : ["a", "b"].slice(i % 2) })) }],
    ["regression", { examples: labelled((i) => ({ value: 1e6 + i })), clamp: true }],
  ];

  test.each(cases)("%s", async (name, head) => {
    const { graft } = tenant;
    await graft.heads.train({ name, method: "head", evaluation: { method: "none" }, ...head });
    const out = join(folder, name);
    expect(await run("offline-head/export.mjs", [name, out, ...texts.slice(1)])).toEqual([
      `${name}@1, 2 texts embedded, 0 from the cache`,
    ]);
    expect(await run("offline-head/export.mjs", [name, out, ...texts])).toEqual([
      `${name}@1, 1 texts embedded, 2 from the cache`,
    ]);
    const lines = await run("offline-head/classify.mjs", [out], { GRAFT_URL: "", GRAFT_KEY: "" });
    const results = lines.map((line) => JSON.parse(line));
    expect(results.map(({ text }) => text).toSorted()).toEqual(texts.toSorted());
    const inputs = results.map(({ text }) => text);
    const { data } = await graft.heads.predict(name, { input: inputs, top_k: 8 });
    for (const [i, { scores, value }] of data.entries()) {
      if (value !== undefined) expect(results[i].value).toBeCloseTo(value, 6);
      else {
        expect(results[i].scores).toHaveLength(scores?.length ?? 0);
        for (const { label, score } of scores ?? []) {
          const own = results[i].scores.find((each: { label: string }) => each.label === label);
          expect(Math.abs(own.score - score), label).toBeLessThan(1e-6);
        }
      }
    }
  });
});

test("webhook-receiver: takes what is signed with its secret, once, and nothing else", async () => {
  const { webhookEndpoints, webhookDeliveries } = (await system.createTenant("example")).graft;
  const endpoint = await webhookEndpoints.create({ url: `${receiverUrl}/in?a=b`, events: ["*"] });
  const receiver = startWebhookReceiver(endpoint.secret ?? "");
  try {
    await waitFor(async () => receiver.lines.includes("ready"), "the receiver is ready");
    const { id } = await webhookEndpoints.test(endpoint.id);
    await waitFor(async () => (await webhookDeliveries.get(id)).status === "succeeded", "it arrives");
    await webhookDeliveries.redeliver(id);
    await waitFor(async () => (await webhookDeliveries.get(id)).attempts[1]?.status === 204, "again");
    expect(receiver.lines.slice(1)).toEqual([`1 webhook.test {"object":"webhook_endpoint","id":"${endpoint.id}"}`]);
    const forged = {
      "webhook-id": "evt_1",
      "webhook-timestamp": `${Math.floor(Date.now() / 1000)}`,
      "webhook-signature": "v1,x",
    };
    expect((await fetch(receiverUrl, { method: "POST", headers: forged, body: "{}" })).status).toBe(400);
  } finally {
    receiver.child.kill();
  }
});

function startWebhookReceiver(secret: string): { child: ChildProcess; lines: readonly string[] } {
  const env = { ...process.env, WEBHOOK_SECRET: secret, PORT: new URL(receiverUrl).port };
  const file = join(examples, "webhook-receiver", "webhook-receiver.mjs");
  const child = spawn(process.execPath, [file], { env, stdio: ["ignore", "pipe", "inherit"] });
  const lines: string[] = [];
  createInterface({ input: child.stdout }).on("line", (line) => lines.push(line));
  return { child, lines };
}
