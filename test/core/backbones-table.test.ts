import { expect, it } from "vitest";
import { makeBackbones } from "../../src/backbones/index.ts";
import { bundledBackbones } from "../../src/backbones/node.ts";
import type { AiBinding } from "../../src/backbones/workers-ai.ts";

const KEY = "sk-very-secret";
const secrets = (name: string) => (name === "OPENAI_API_KEY" ? KEY : undefined);
const ai: AiBinding = { run: async () => ({ data: [] }) };

const openAi = {
  kind: "openai",
  id: "text-embedding-3-small",
  base_url: "https://api.openai.com/v1",
  model: "text-embedding-3-small",
  dimensions: 1536,
  secret: "OPENAI_API_KEY",
  license: "proprietary",
};
const bge = {
  kind: "workers_ai",
  id: "bge-small-en-v1.5",
  model: "@cf/baai/bge-small-en-v1.5",
  dimensions: 384,
  pooling: "cls",
  license: "MIT",
};

function buildTable(...entries: unknown[]) {
  const table = makeBackbones(bundledBackbones, JSON.stringify(entries), secrets, ai);
  if (!table.ok) throw new Error(table.failure.message);
  return table.value;
}

function configurationError(configuration: unknown, binding: AiBinding | undefined = ai): string {
  const text = typeof configuration === "string" ? configuration : JSON.stringify(configuration);
  const table = makeBackbones(bundledBackbones, text, secrets, binding);
  return table.ok ? "none" : table.failure.message;
}

it.each([undefined, "", "  ", "[]"])("has the backbones in the box alone when BACKBONES is %j", (configuration) => {
  const table = makeBackbones(bundledBackbones, configuration, secrets, undefined);
  expect(table.ok && [...table.value.keys()]).toEqual(["text-static-1", "text-use-1", "hash-text-1"]);
});

it("adds the configured backbones, and shows nothing of their key", () => {
  const table = buildTable(openAi, bge);
  expect([...table.keys()]).toEqual([
    "text-static-1",
    "text-use-1",
    "hash-text-1",
    "text-embedding-3-small",
    "bge-small-en-v1.5",
  ]);
  expect(table.get("text-embedding-3-small")).toMatchObject({
    kind: "openai",
    modality: "text",
    dimensions: 1536,
    license: "proprietary",
    cost: "remote",
  });
  expect(table.get("bge-small-en-v1.5")).toMatchObject({ kind: "workers_ai", dimensions: 384, license: "MIT" });
  expect(JSON.stringify([...table])).not.toContain("secret");
});

it("changes the revision with what changes the embeddings, and with nothing else", () => {
  const revision = (entry: typeof openAi | typeof bge | Record<string, unknown>) =>
    buildTable(entry).get(String(entry.id))?.revision;
  for (const change of [{ model: "other" }, { dimensions: 512 }, { revision: "2" }]) {
    expect(revision({ ...openAi, ...change })).not.toBe(revision(openAi));
  }
  for (const change of [{ pooling: "mean" }, { pooling: undefined }]) {
    expect(revision({ ...bge, ...change })).not.toBe(revision(bge));
  }
  for (const change of [{ base_url: "https://gateway.example/v1" }, { batch_size: 1 }, { license: "MIT" }]) {
    expect(revision({ ...openAi, ...change })).toBe(revision(openAi));
  }
  expect(revision({ ...openAi, revision: "2026-01" })).toBe("2026-01");
});

it.each([
  ["{", "BACKBONES: is not JSON"],
  [{}, "BACKBONES: it is an object, and must be a list"],
  [[{ ...openAi, kind: "magic" }], "BACKBONES[0].kind"],
  [[bge, { ...openAi, dimensions: "1536" }], "BACKBONES[1].dimensions"],
  [[{ ...openAi, dimensions: 0 }], "BACKBONES[0].dimensions"],
  [[{ ...openAi, colour: "red" }], 'BACKBONES[0]: Unrecognized key: "colour"'],
  [[{ ...openAi, pooling: "cls" }], "BACKBONES[0]"],
  [[{ ...bge, batch_size: 101 }], "BACKBONES[0].batch_size"],
  [[{ ...openAi, id: "a/b" }], "BACKBONES[0].id"],
  [[{ ...openAi, id: "a@b" }], "BACKBONES[0].id"],
  [[openAi, openAi], "BACKBONES[1].id: 'text-embedding-3-small' is taken"],
  [[{ ...openAi, id: "hash-text-1" }], "BACKBONES[0].id: 'hash-text-1' is taken"],
  [[{ ...openAi, id: "text-static-1" }], "BACKBONES[0].id: 'text-static-1' is taken"],
  [[{ ...openAi, secret: "OTHER_KEY" }], "BACKBONES[0].secret: the secret OTHER_KEY is not set"],
])("says what is wrong with %j", (configuration, message) => {
  expect(configurationError(configuration)).toContain(message);
});

it("does not repeat a key put where its name belongs", () => {
  const message = configurationError([{ ...openAi, secret: KEY }]);
  expect(message).toContain("BACKBONES[0].secret: must be the name of a secret");
  expect(message).not.toContain(KEY);
});

it("needs the binding for Workers AI", () => {
  const table = makeBackbones(bundledBackbones, JSON.stringify([bge]), secrets, undefined);
  expect(table.ok).toBe(false);
  expect(!table.ok && table.failure.message).toContain("BACKBONES[0].kind: workers_ai needs the binding AI");
});

it.each([
  ["https://api.example.com/v1/", true],
  ["http://localhost:11434/v1", true],
  ["http://127.0.0.1:8080", true],
  ["http://[::1]:8080/v1", true],
  ["http://api.example.com/v1", false],
  ["http://127.0.0.1.example.com/v1", false],
  ["http://localhost.example.com/v1", false],
  ["https://user:password@api.example.com/v1", false],
  ["https://api.example.com/v1?key=1", false],
  ["ftp://localhost/v1", false],
  ["api.example.com", false],
])("takes the base URL %s: %s", (base_url, isAccepted) => {
  const message = configurationError([{ ...openAi, base_url }]);
  if (isAccepted) expect(message).toBe("none");
  else expect(message).toContain("BACKBONES[0].base_url: must be an https: URL");
});
