/** The batch endpoint in containers, which exist on the platform alone: the class is real, its storage too, the container is not. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeEach, expect, test, vi } from "vitest";
import type { z } from "zod";
import { BatchContainer, type ContainerEnv } from "../../src/jobs/container.ts";
import type { health as healthSchema } from "../../src/jobs/protocol.ts";
import { getBatchEndpoint } from "../../src/tenant/jobs/job-runner.ts";

const SIGTERM = 15;
const openai = { kind: "openai", id: "small", model: "m", dimensions: 3, base_url: "https://a.test", secret: "A_KEY" };
const settings = {
  GRAFT_URL: "https://graft.test",
  BATCH_SECRET: "whsec_bmV3",
  PREVIOUS_BATCH_SECRET: "whsec_b2xk",
  BACKBONES: JSON.stringify([openai, { kind: "workers_ai", id: "bge", model: "m", dimensions: 3 }]),
  A_KEY: "a-key",
  ADMIN_KEY: "not for containers",
};

/** Stands in for a container: `answer` is what listens in it. */
function fakeContainer(answer: (request: Request) => Response | Promise<Response>) {
  const stopped = Promise.withResolvers<void>();
  const fake = {
    running: false,
    start: vi.fn((_options: { env: Record<string, string> }) => {
      fake.running = true;
    }),
    monitor: () => stopped.promise,
    signal: vi.fn((_signal: number) => undefined),
    getTcpPort: (port: number) => ({
      fetch: async (input: RequestInfo, init?: RequestInit) => {
        expect(port).toBe(8788);
        return answer(new Request(input, init));
      },
    }),
  };
  return fake;
}

/** Runs with the class on the real storage of an object that nothing else uses. */
function withContainer(
  fake: ReturnType<typeof fakeContainer>,
  work: (container: BatchContainer) => Promise<void>,
  containerEnv: ContainerEnv = settings,
): Promise<void> {
  const stub = env.DIRECTORY.getByName(crypto.randomUUID());
  return runInDurableObject(stub, async (_instance, state) => {
    Object.defineProperty(state, "container", { value: fake });
    await work(new BatchContainer(state as DurableObjectState<object>, containerEnv));
    await state.storage.deleteAlarm();
  });
}

const respondJson = (body: object, status = 200) => Response.json(body, { status });
const requestAttempt = (container: BatchContainer) =>
  container.fetch(new Request("http://batch/v1/jobs/ftjob-1/attempts/1"));
let health: z.infer<typeof healthSchema>;
beforeEach(() => {
  health = { status: "ok", running: 0, capacity: 1 };
  vi.spyOn(console, "error").mockImplementation(() => undefined);
});

test("a container is started for the first call, with the endpoint's settings and no other secret", async () => {
  const fake = fakeContainer((request) => respondJson({ path: new URL(request.url).pathname }, 202));
  await withContainer(fake, async (container) => {
    const response = await requestAttempt(container);
    expect(response.status).toBe(202);
    expect(await response.json()).toEqual({ path: "/v1/jobs/ftjob-1/attempts/1" });
    await (await requestAttempt(container)).text();
    expect(fake.start).toHaveBeenCalledOnce();
    expect(fake.start.mock.calls[0]?.[0].env).toEqual({
      BATCH_HOST: "0.0.0.0",
      BATCH_PORT: "8788",
      BATCH_GRACE_SECONDS: "840",
      BATCH_SECRET: "whsec_bmV3",
      PREVIOUS_BATCH_SECRET: "whsec_b2xk",
      GRAFT_URL: "https://graft.test",
      BACKBONES: JSON.stringify([openai]),
      A_KEY: "a-key",
    });
  });
});

test("what is not set is not passed on", async () => {
  const fake = fakeContainer(() => respondJson({}));
  const containerEnv = { GRAFT_URL: "https://graft.test", BATCH_SECRET: "whsec_bmV3" };
  await withContainer(fake, async (container) => void (await (await requestAttempt(container)).text()), containerEnv);
  expect(Object.keys(fake.start.mock.calls[0]?.[0].env ?? {}).toSorted()).toEqual(
    ["BACKBONES", "BATCH_GRACE_SECONDS", "BATCH_HOST", "BATCH_PORT", "BATCH_SECRET", "GRAFT_URL"].toSorted(),
  );
});

test("an idle container is told to stop, as is one that does not answer; one that runs an attempt is not", async () => {
  let answers = true;
  const fake = fakeContainer(() => {
    if (!answers) throw new Error("Network connection lost.");
    return respondJson(health);
  });
  await withContainer(fake, async (container) => {
    await (await requestAttempt(container)).text();
    health = { ...health, running: 1 };
    await container.onActivityExpired();
    expect(fake.signal).not.toHaveBeenCalled();
    health = { ...health, running: 0 };
    await container.onActivityExpired();
    expect(fake.signal.mock.calls).toEqual([[SIGTERM]]);
    answers = false;
    await container.onActivityExpired();
    expect(fake.signal.mock.calls).toEqual([[SIGTERM], [SIGTERM]]);
  });
});

test("a container that does not know the secret any more is stopped, unless it runs an attempt", async () => {
  const fake = fakeContainer((request) =>
    request.url.endsWith("/health") ? respondJson(health) : respondJson({}, 401),
  );
  await withContainer(fake, async (container) => {
    health = { ...health, running: 1 };
    expect((await requestAttempt(container)).status).toBe(401);
    expect(fake.signal).not.toHaveBeenCalled();
    health = { ...health, running: 0 };
    expect((await requestAttempt(container)).status).toBe(401);
    expect(fake.signal.mock.calls).toEqual([[SIGTERM]]);
  });
});

test("where there is no container left the endpoint is full; what it says itself is passed on", async () => {
  const none = new Error("there is no container instance that can be provided to this durable object");
  await withContainer(
    fakeContainer(() => respondJson({})),
    async (container) => {
      // It tries for eight seconds by itself.
      vi.spyOn(container, "startAndWaitForPorts").mockRejectedValue(none);
      const response = await requestAttempt(container);
      expect(response.status).toBe(429);
      expect(response.headers.get("retry-after")).toBe("15");
    },
  );

  const stopping = fakeContainer((request) =>
    respondJson({ error: { code: "stopping" } }, request.url.endsWith("/health") ? 200 : 503),
  );
  await withContainer(stopping, async (container) => {
    const response = await requestAttempt(container);
    expect(response.status).toBe(503);
    expect(await response.json()).toEqual({ error: { code: "stopping" } });
  });
});

test("each job has a container of its own, unless the endpoint is elsewhere", async () => {
  const requestedNames: string[] = [];
  const BATCH = {
    getByName: (name: string) => ({
      fetch: async (url: string, { method }: RequestInit) => {
        requestedNames.push(`${name}: ${method} ${url}`);
        return new Response();
      },
    }),
  } as unknown as DurableObjectNamespace<BatchContainer>;
  const { BATCH_SECRET, GRAFT_URL } = settings;
  const { BATCH_URL: _, BATCH_SECRET: __, ...envWithout } = env;
  const endpoint = getBatchEndpoint({ ...envWithout, BATCH, BATCH_SECRET, GRAFT_URL });
  await endpoint?.send("/v1/jobs/ftjob-1/attempts/2", { method: "PUT" });
  await endpoint?.send("/v1/jobs/ftjob-2/attempts/1/stop", { method: "POST" });
  expect(requestedNames).toEqual([
    "ftjob-1: PUT http://batch/v1/jobs/ftjob-1/attempts/2",
    "ftjob-2: POST http://batch/v1/jobs/ftjob-2/attempts/1/stop",
  ]);

  expect(getBatchEndpoint({ ...envWithout, BATCH, GRAFT_URL })).toBeNull();
  expect(getBatchEndpoint({ ...envWithout, BATCH, BATCH_SECRET })).toBeNull();
  expect(getBatchEndpoint({ ...envWithout, BATCH_SECRET, GRAFT_URL })).toBeNull();

  const otherEndpoint = vi.spyOn(globalThis, "fetch").mockResolvedValue(new Response());
  await getBatchEndpoint({ ...envWithout, BATCH, BATCH_SECRET, GRAFT_URL, BATCH_URL: "https://batch.test/" })?.send(
    "/health",
    {},
  );
  expect(otherEndpoint).toHaveBeenCalledWith("https://batch.test/health", {});
  otherEndpoint.mockRestore();
  expect(requestedNames).toHaveLength(2);
});
