/** When a server gives its runtime up. */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { watchRuntime } from "../../src/server/liveness.ts";

const folder = mkdtempSync(join(tmpdir(), "graft-liveness-"));
afterAll(() => rmSync(folder, { recursive: true }));
const limits = { intervalMs: 50, checks: 6 };

/** A runtime that counts the requests which it answers. */
async function startRuntime(socketPath: string, answers = true) {
  let requests = 0;
  const server: Server = createServer((request, response) => {
    expect(request.url).toBe("/health/live");
    requests++;
    if (answers) response.end("{}");
  }).listen(socketPath);
  await once(server, "listening");
  const stop = async () => {
    server.close();
    server.closeAllConnections();
    await once(server, "close");
  };
  return { stop, requests: () => requests };
}

test("a runtime that is away for less than the limit, even again and again, is not lost", async () => {
  const socketPath = join(folder, "restarts.sock");
  let lost = 0;
  const stopWatching = watchRuntime(socketPath, () => lost++, limits);
  for (const _ of [1, 2, 3]) {
    const runtime = await startRuntime(socketPath);
    await expect.poll(runtime.requests).toBeGreaterThan(1);
    await runtime.stop();
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  expect(lost).toBe(0);
  await stopWatching();
});

test.each([
  ["is gone", false],
  ["hangs", true],
])("a runtime that %s is lost, once", async (_what, hangs) => {
  const socketPath = join(folder, `lost-${hangs}.sock`);
  const runtime = hangs ? await startRuntime(socketPath, false) : null;
  let lost = 0;
  const stopWatching = watchRuntime(socketPath, () => lost++, limits);
  await expect.poll(() => lost, { timeout: 5_000 }).toBe(1);
  await new Promise((resolve) => setTimeout(resolve, 400));
  expect(lost).toBe(1);
  await stopWatching();
  await runtime?.stop();
});
