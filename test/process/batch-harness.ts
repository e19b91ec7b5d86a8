/** A batch endpoint in this process, beside a fake Worker, for one test at a time. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect } from "vitest";
import type { Log } from "../../src/batch/log.ts";
import { readSettings, type Settings } from "../../src/batch/server/settings.ts";
import { type BatchEndpoint, startBatchEndpoint } from "../../src/batch.ts";
import { type FakeWorker, secret, startFakeWorker } from "./fake-worker.ts";

export interface Harness {
  worker: FakeWorker;
  /** WORK_DIR */
  folder: string;
  /** What was logged, as `event outcome`. */
  readonly log: string[];
  start(more?: Partial<Settings>, program?: string): Promise<BatchEndpoint>;
  /** The names of what WORK_DIR has for the attempts that run. */
  records(): string[];
  /** Waits until a line is logged. */
  waitForLog(line: string): Promise<void>;
}

export const pace = { timeoutMs: 1_000, maxElapsedMs: 5_000, initialBackoffMs: 5, maxBackoffMs: 20 };

/** Asks until an expectation holds, for longer than a busy machine takes. */
export function poll<T>(read: () => T): ReturnType<typeof expect.poll<T>> {
  return expect.poll(read, { timeout: 30_000, interval: 20 });
}

/** Starts a fake Worker before each test, and stops everything after it. */
export function setUpHarness(): Harness {
  const endpoints: BatchEndpoint[] = [];
  let nextLine = Promise.withResolvers<void>();
  const writeLog: Log = (event, fields) => {
    harness.log.push([event, fields?.outcome ?? fields?.report ?? ""].join(" ").trim());
    nextLine.resolve();
    nextLine = Promise.withResolvers();
  };
  const harness: Harness = {
    worker: undefined as unknown as FakeWorker,
    folder: "",
    log: [],
    async start(overrides = {}, program) {
      const env = { BATCH_SECRET: secret, GRAFT_URL: harness.worker.url, BATCH_PORT: "0", WORK_DIR: harness.folder };
      const endpoint = await startBatchEndpoint(
        { ...readSettings(env), retryPolicy: pace, graceMs: 1_000, ...overrides },
        writeLog,
        program,
      );
      endpoints.push(endpoint);
      return endpoint;
    },
    records: () => readdirSync(harness.folder).filter((name) => !name.startsWith("lock")),
    async waitForLog(line) {
      while (!harness.log.includes(line)) await nextLine.promise;
    },
  };
  beforeEach(async () => {
    harness.worker = await startFakeWorker();
    harness.folder = mkdtempSync(join(tmpdir(), "graft-batch-"));
    harness.log.length = 0;
  });
  afterEach(async () => {
    await Promise.all(endpoints.splice(0).map((endpoint) => endpoint.stop()));
    await harness.worker.close();
    rmSync(harness.folder, { recursive: true });
    expect(harness.worker.violations).toEqual([]);
    expect(harness.log).not.toContain("error");
  });
  return harness;
}
