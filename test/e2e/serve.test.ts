import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { createClient } from "../../src/sdk.ts";
import { build, serve, workerVariables } from "../../src/serve.ts";
import { embeddingOf, startEmbeddingServer } from "../core/embedding-server.ts";

const folder = mkdtempSync(join(tmpdir(), "graft-serve-test-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const entry = {
  kind: "openai",
  id: "remote",
  base_url: "http://127.0.0.1:9/v1",
  model: "m",
  dimensions: 4,
  secret: "REMOTE_KEY",
};

test("the secrets that BACKBONES names reach the Worker from the environment", async () => {
  const remote = await startEmbeddingServer();
  const BACKBONES = JSON.stringify([{ ...entry, base_url: remote.url }]);
  const variables = workerVariables({ BACKBONES, REMOTE_KEY: "sk-remote", UNRELATED: "stays outside" });
  expect(variables).toEqual({ BACKBONES, REMOTE_KEY: "sk-remote" });
  const built = join(folder, "worker");
  await build(built);
  const server = await serve(built, {
    port: 0,
    stateDir: join(folder, "state"),
    adminKey: "operator",
    variables,
    log: () => undefined,
  });
  try {
    const { key } = await createClient({ baseUrl: server.url, key: "operator" }).tenants.create();
    const graft = createClient({ baseUrl: server.url, key: key.secret });
    const { data } = await graft.embeddings.create({ model: "remote", input: "hello" });
    expect(data[0]?.embedding).toEqual(embeddingOf("hello"));
    expect(remote.calls.map(({ headers }) => headers.authorization)).toEqual(["Bearer sk-remote"]);
  } finally {
    await server.stop();
    await remote.close();
  }
});

test.each([
  [{ BACKBONES: JSON.stringify([entry]) }, "BACKBONES[0].secret: the secret REMOTE_KEY is not set"],
  [{ BACKBONES: "not a list" }, "BACKBONES: is not JSON"],
])("a wrong BACKBONES is told at the start: %j", (env, message) => {
  expect(() => workerVariables(env)).toThrow(message);
});
