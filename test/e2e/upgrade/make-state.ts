/**
 * Makes test/e2e/upgrade/state.tar.gz, a state folder that an earlier build wrote, with work that it left undone:
 *
 *   node test/e2e/upgrade/make-state.ts <checkout of that build, installed>
 *
 * The archive also has what the build answered (`expected.json`), for test/e2e/upgrade.slow.test.ts to compare. Remake it
 * when a release changes a stored format, from the build before that release.
 */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { createClient } from "../../../src/sdk/client.ts";
import { startEmbeddingServer } from "../../process/embedding-server.ts";
import { makeExamples, waitFor } from "../processes.ts";
import { respond, startReceiver } from "../receivers.ts";
import { ADMIN_KEY, type ExpectedState, remoteBackbones, workerVariables } from "./state.ts";

const build = resolve(process.argv[2] ?? "");
const folder = mkdtempSync(join(tmpdir(), "graft-state-"));
const receiver = await startReceiver();
receiver.handler = respond(500);
const embeddingServer = await startEmbeddingServer();

const server = spawn(process.execPath, ["src/serve.ts"], {
  cwd: build,
  env: {
    ...process.env,
    ...workerVariables,
    ADMIN_KEY,
    PORT: "0",
    STATE_DIR: join(folder, "state"),
    // Nothing listens there.
    BATCH_URL: "http://127.0.0.1:9",
    WEBHOOK_ORIGINS: receiver.url,
    BACKBONES: remoteBackbones(embeddingServer.url),
  },
  stdio: ["ignore", "pipe", "inherit"],
  detached: true,
});
const url = await new Promise<string>((found) => {
  createInterface({ input: server.stdout }).on("line", (line) => {
    const address = /^Graft listens on ([^, ]+)/.exec(line)?.[1];
    if (address !== undefined) found(address);
  });
});

const { key } = await createClient({ baseUrl: url, key: ADMIN_KEY }).tenants.create({ id: "acme" });
const graft = createClient({ baseUrl: url, key: key.secret });
const endpoint = await graft.webhookEndpoints.create({ url: receiver.url, events: ["*"] });

// A head with two versions, feedback and a policy.
await graft.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
await graft.datasets.add("tickets", makeExamples(40));
await graft.heads.train({ name: "support", dataset: "tickets", method: "head" });
await graft.datasets.add("tickets", makeExamples(4, 40));
await graft.heads.train({ name: "support", dataset: "tickets", method: "head", promote: false });
await graft.heads.promote("support", 2);
await graft.heads.policy("support", { retrain_after_examples: 1000, retrain_on_drift: true });
const feedback = [
  { text: "where is my parcel today", label: "parcel" },
  { text: "this refund is late", label: "refund" },
  { text: "a login that fails", label: "invoice" },
];
await graft.heads.feedback("support", feedback);

// An inbound hook that learned from a message.
const fields = { text: "/text", label: "/label" };
const verify = { scheme: "none" } as const;
const hook = await graft.inboundHooks.create({ name: "desk", action: "learn", dataset: "tickets", fields, verify });
const message = { text: "the invoice came twice", label: "invoice" };
const sent = await fetch(hook.url ?? "", {
  method: "POST",
  body: JSON.stringify(message),
  headers: { "content-type": "application/json" },
});
const hookAnswer = (await sent.json()) as object;

// A file, and a request that its Idempotency-Key repeats.
const lines = makeExamples(8)
  .map((example) => JSON.stringify(example))
  .join("\n");
const file = await graft.files.create(new Blob([lines]), "train.jsonl");
const idempotencyKey = "the first request";
const dataset = { name: "prices", task: "regression", modality: "text" } as const;
const created = await graft.datasets.create(dataset, { idempotencyKey });

// A job that no batch endpoint takes, and webhooks that failed until their endpoint's circuit opened.
const job = await graft.jobs.create({
  model: "text-static-1",
  training_file: "dataset:tickets",
  suffix: "tuned",
  trainable: "head",
});
await waitFor(
  async () => (await graft.jobs.events(job.id)).data.some(({ level }) => level === "warn"),
  "a submission fails",
);
const listDeliveries = async () => (await graft.webhookDeliveries.list({ limit: 100 })).data;
const countAttempts = async () => (await listDeliveries()).reduce((sum, { attempt_count }) => sum + attempt_count, 0);
await waitFor(async () => (await countAttempts()) >= 6, "six attempts fail");

const input = "my parcel number 3 is wrong";
const [answer] = (await graft.heads.predict("support", { input })).data;
const head = await graft.heads.get("support");
const policy = await graft.heads.policy("support");

// A head whose retraining is under way when the server is killed: its backbone does not answer.
await graft.datasets.create({ name: "remote", task: "single_label", modality: "text" });
await graft.datasets.add("remote", makeExamples(20));
await graft.heads.train({ name: "remote", dataset: "remote", method: "head", backbone: "remote" });
await graft.heads.policy("remote", { retrain_after_examples: 1, promote: "always" });
const callCount = embeddingServer.calls.length;
embeddingServer.script.push(...Array.from({ length: 100 }, () => () => undefined));
await graft.datasets.add("remote", [{ text: "one more parcel", label: "parcel" }]);
await waitFor(async () => embeddingServer.calls.length > callCount, "the retraining asks for embeddings");

const expected: ExpectedState = {
  key: key.secret,
  receiver: receiver.url,
  secret: endpoint.secret ?? "",
  events: (await listDeliveries()).map(({ event }) => event.id),
  prediction: { input, answer },
  head,
  policy,
  dataset: await graft.datasets.get("tickets"),
  file,
  job: job.id,
  hook: { path: new URL(hook.url ?? "").pathname, message, answer: hookAnswer },
  idempotent: { key: idempotencyKey, body: dataset, answer: created },
  takenAt: Math.floor(Date.now() / 1000),
};
writeFileSync(join(folder, "expected.json"), `${JSON.stringify(expected, null, 2)}\n`);
process.kill(-(server.pid ?? 0), "SIGKILL");
await once(server, "exit");
// The runtime ends a moment after the server.
await new Promise((resolve) => setTimeout(resolve, 1000));
const archive = join(import.meta.dirname, "state.tar.gz");
execFileSync("tar", ["--exclude=lock*", "-czf", archive, "-C", folder, "state", "expected.json"]);
rmSync(folder, { recursive: true });
await Promise.all([receiver.close(), embeddingServer.close()]);
