/** What goes on in the Worker, as it is deployed and behind its front, after a client has hung up. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { type ClientRequest, request as sendRequest } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { seededRandom } from "../../src/core/random.ts";
import { createClient } from "../../src/sdk/client.ts";
import { type Server, serve } from "../../src/server/runtime.ts";
import { makeExamples, waitFor } from "./processes.ts";

const folder = mkdtempSync(join(tmpdir(), "graft-disconnect-"));
const adminKey = "operator-of-the-disconnect-test";
const DIMENSIONS = 256;
let server: Server;
beforeAll(async () => {
  server = await serve(inject("bundles").deployed, { port: 0, stateDir: folder, adminKey, log: () => undefined });
});
afterAll(async () => {
  await server?.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** So many fits that a training takes some seconds. */
const evaluation = { method: "cross_validation", folds: 20, detail: "full" };

/** Embeddings that tell their labels badly. */
function makeEmbeddings(count: number) {
  const random = seededRandom(1);
  return Array.from({ length: count }, (_, i) => {
    const label = i % 100;
    const numberAt = (j: number) => random() - 0.5 + (j === label ? 0.5 : 0);
    const embedding = Array.from({ length: DIMENSIONS }, (_, j) => Math.round(1_000 * numberAt(j)) / 1_000);
    return { embedding, label: `label ${label}` };
  });
}

async function createTenant(id: string) {
  const { key } = await createClient({ baseUrl: server.url, key: adminKey }).tenants.create({ id });
  return { key: key.secret, graft: createClient({ baseUrl: server.url, key: key.secret }) };
}

function startTraining(key: string, idempotencyKey: string, params: object): ClientRequest {
  const body = JSON.stringify({ name: "slow", method: "head", evaluation, ...params });
  const headers = {
    authorization: `Bearer ${key}`,
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
    "idempotency-key": idempotencyKey,
  };
  const request = sendRequest(`${server.url}/v1/heads`, { method: "POST", headers });
  request.on("error", () => undefined);
  request.end(body);
  return request;
}

/** Seconds of CPU that the runtime has taken, which this process has started. */
function cpuSeconds(): number {
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const stat = (() => {
      try {
        return readFileSync(`/proc/${name}/stat`, "utf8");
      } catch {
        return "";
      }
    })();
    const [, command, rest = ""] = /\((.*)\) \S (.*)/.exec(stat) ?? [];
    const fields = rest.split(" ");
    // After the state: the parent is field 1; user and system time, in hundredths of a second, are fields 11 and 12.
    if (command === "workerd" && Number(fields[0]) === process.pid)
      return (Number(fields[10]) + Number(fields[11])) / 100;
  }
  throw new Error("There is no runtime.");
}

test.each(["sent along", "of a dataset"] as const)(
  "a training on examples %s stops when its client hangs up, and frees its slot and its key at once",
  async (kind) => {
    const suffix = kind.replaceAll(" ", "-");
    const [victim, other] = [await createTenant(`hangs-up-${suffix}`), await createTenant(`waits-${suffix}`)];
    const examples = makeEmbeddings(kind === "sent along" ? 4_000 : 8_000);
    if (kind === "of a dataset") {
      const shape = { task: "single_label", modality: "embedding", dimensions: DIMENSIONS } as const;
      await victim.graft.datasets.create({ name: "large", ...shape });
      await victim.graft.datasets.add("large", examples);
    }
    const params = kind === "sent along" ? { examples } : { dataset: "large" };
    const before = cpuSeconds();
    const request = startTraining(victim.key, "once", params);
    await waitFor(async () => cpuSeconds() - before > 1, "the training computes");
    request.destroy();
    const hungUpAt = Date.now();

    const few = { backbone: "hash-text-1", examples: makeExamples(20) };
    const small = await other.graft.heads.train({ name: "small", method: "head", ...few });
    expect(small.version).toBe(1);
    expect(Date.now() - hungUpAt).toBeLessThan(2_000);
    const after = cpuSeconds();
    await new Promise((done) => setTimeout(done, 1_000));
    expect(cpuSeconds() - after).toBeLessThan(0.3);

    // It would have to wait for ten minutes if the first request still had the key.
    const repeated = startTraining(victim.key, "once", params);
    const status = await new Promise((done) => repeated.once("response", (answer) => done(answer.statusCode)));
    expect(status).toBe(201);
    expect((await victim.graft.heads.get("slow")).version).toBe(1);
  },
);
