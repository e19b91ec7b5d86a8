/** Builds the Worker once for all end-to-end tests, before the first of them. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { buildWorker } from "../../src/server/runtime.ts";

const root = join(import.meta.dirname, "..", "..");

/** Folders of built Workers. */
export interface Bundles {
  /** What a deployment would upload. */
  readonly deployed: string;
  /** The Worker of test/e2e/crashing-worker.ts. */
  readonly crashing: string;
}

declare module "vitest" {
  interface ProvidedContext {
    readonly bundles: Bundles;
  }
}

export function buildCrashingWorker(folder: string): Promise<void> {
  return buildWorker(folder, join(import.meta.dirname, "crashing-worker.ts"));
}

/** Fills the cache of compiled modules (vitest.config.ts): a process that is killed, as most here are, leaves nothing there. */
function fillCompileCache(): void {
  // Each loads all that it needs, and ends, since nobody is at its other end.
  for (const program of ["test/e2e/crash-server.ts", "src/batch/attempt/child.ts"])
    spawnSync(process.execPath, [join(root, program)], { stdio: "ignore" });
}

export default async function setUp(project: TestProject): Promise<() => void> {
  const folder = mkdtempSync(join(tmpdir(), "graft-bundles-"));
  const bundles: Bundles = { deployed: join(folder, "deployed"), crashing: join(folder, "crashing") };
  const build = async () => {
    await Promise.all([buildWorker(bundles.deployed), buildCrashingWorker(bundles.crashing)]);
  };
  await build();
  fillCompileCache();
  project.onTestsRerun(build);
  project.provide("bundles", bundles);
  return () => rmSync(folder, { recursive: true, force: true });
}
