/** A batch endpoint in this process, beside a fake Worker, for one test at a time. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect } from "vitest";
import type { Log } from "../../src/batch/log.ts";
import { readSettings, type Settings } from "../../src/batch/server/settings.ts";
import { type BatchEndpoint, startBatch } from "../../src/batch.ts";
import { type FakeWorker, secret, startFakeWorker } from "./batch-worker.ts";

export interface Harness {
  worker: FakeWorker;
  /** WORK_DIR */
  folder: string;
  /** What was logged, as `event how`. */
  readonly log: string[];
  start(more?: Partial<Settings>, program?: string): Promise<BatchEndpoint>;
  /** The names of what WORK_DIR has for the attempts that run. */
  records(): string[];
  /** Waits until a line is logged. */
  logged(line: string): Promise<void>;
}

export const pace = { timeoutMs: 1_000, patienceMs: 5_000, firstWaitMs: 5, longestWaitMs: 20 };

/** Asks until an expectation holds, for longer than a busy machine takes. */
export function soon<T>(ask: () => T): ReturnType<typeof expect.poll<T>> {
  return expect.poll(ask, { timeout: 15_000, interval: 20 });
}

/** Starts a fake Worker before each test, and stops everything after it. */
export function harness(): Harness {
  const open: BatchEndpoint[] = [];
  let arrived = Promise.withResolvers<void>();
  const note: Log = (event, fields) => {
    self.log.push([event, fields?.how ?? fields?.told ?? ""].join(" ").trim());
    arrived.resolve();
    arrived = Promise.withResolvers();
  };
  const self: Harness = {
    worker: undefined as unknown as FakeWorker,
    folder: "",
    log: [],
    async start(more = {}, program) {
      const env = { BATCH_SECRET: secret, GRAFT_URL: self.worker.url, BATCH_PORT: "0", WORK_DIR: self.folder };
      const endpoint = await startBatch({ ...readSettings(env), pace, graceMs: 1_000, ...more }, note, program);
      open.push(endpoint);
      return endpoint;
    },
    records: () => readdirSync(self.folder).filter((name) => !name.startsWith("lock")),
    async logged(line) {
      while (!self.log.includes(line)) await arrived.promise;
    },
  };
  beforeEach(async () => {
    self.worker = await startFakeWorker();
    self.folder = mkdtempSync(join(tmpdir(), "graft-batch-"));
    self.log.length = 0;
  });
  afterEach(async () => {
    await Promise.all(open.splice(0).map((endpoint) => endpoint.stop()));
    await self.worker.close();
    rmSync(self.folder, { recursive: true });
    expect(self.worker.violations).toEqual([]);
    expect(self.log).not.toContain("error");
  });
  return self;
}
