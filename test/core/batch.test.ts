import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { readSettings, type Settings } from "../../src/batch/settings.ts";
import { type BatchEndpoint, startBatch } from "../../src/batch.ts";
import { decodeHead } from "../../src/core/codec.ts";
import { embeddings, ofEmbeddings, submissionOf, texts } from "./batch-data.ts";
import { type FakeWorker, secret, startFakeWorker, submit } from "./batch-worker.ts";

let worker: FakeWorker;
let folder: string;
let open: BatchEndpoint[] = [];

beforeEach(async () => {
  worker = await startFakeWorker();
  folder = mkdtempSync(join(tmpdir(), "graft-batch-"));
});
afterEach(async () => {
  await Promise.all(open.map((each) => each.stop()));
  open = [];
  await worker.close();
  rmSync(folder, { recursive: true });
  expect(worker.violations).toEqual([]);
});

const pace = { timeoutMs: 2_000, patienceMs: 5_000, firstWaitMs: 5, longestWaitMs: 20 };

async function start(more: Partial<Settings> = {}): Promise<string> {
  const env = { BATCH_SECRET: secret, GRAFT_URL: worker.url, BATCH_PORT: "0", WORK_DIR: folder };
  const endpoint = await startBatch({ ...readSettings(env), pace, ...more }, (event, fields) =>
    console.log(event, fields),
  );
  open.push(endpoint);
  return endpoint.url;
}

describe("a job", () => {
  it("trains", async () => {
    const url = await start();
    const given = worker.offer(submissionOf(), texts(300));
    const answer = await submit(url, given);
    expect(answer.status).toBe(202);
    const { manifest } = await worker.until("finished", given.id);
    console.log(JSON.stringify(worker.messages(given.id), null, 1).slice(0, 4000));
    console.log(decodeHead(worker.artifacts.get(manifest.artifact.sha256) as Buffer)?.labels);
  });
});
void embeddings;
void ofEmbeddings;
