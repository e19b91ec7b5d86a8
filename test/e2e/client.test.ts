/** The client of src/sdk.ts against the Worker as it is deployed. */
import { execFile } from "node:child_process";
import { copyFileSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Readable } from "node:stream";
import { promisify } from "node:util";
import { createConfig, lintFromString } from "@redocly/openapi-core";
import openapiTS, { astToString } from "openapi-typescript";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { createClient, GraftError } from "../../src/sdk/client.ts";
import { type Server, serve } from "../../src/server/runtime.ts";

const folder = mkdtempSync(join(tmpdir(), "graft-client-"));
const adminKey = "operator-of-the-client-test";
let server: Server;
beforeAll(async () => {
  server = await serve(inject("bundles").deployed, { port: 0, stateDir: folder, adminKey, log: () => undefined });
});
afterAll(async () => {
  await server?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const colours = ["red", "green", "blue"];
const things = ["door", "car", "house", "shirt", "lamp", "bag", "chair", "book", "phone", "cup", "hat", "wall"];
const rows = things.flatMap((thing) => colours.map((colour) => `"a ${colour} ${thing}, please",${colour}`));

test("the client covers a tenant's life and throws what the API refuses", async () => {
  const operator = createClient({ baseUrl: `${server.url}/`, key: adminKey });
  expect(await operator.ready()).toBe(true);
  const { key } = await operator.tenants.create({ id: "sdk-test" }, { idempotencyKey: "one" });
  expect((await operator.tenants.get("sdk-test")).status).toBe("active");
  expect((await operator.tenants.list({ limit: 1 })).data[0]?.id).toBe("sdk-test");
  const graft = createClient({ baseUrl: server.url, key: key.secret });
  await graft.datasets.create({ name: "colours", task: "single_label", modality: "text" });
  const lines = rows.map((row) => JSON.stringify({ text: row.split('"')[1], label: row.split(",").at(-1) }));
  const body = Readable.from(lines.map((line) => Buffer.from(`${line}\n`)));
  expect(await graft.datasets.import("colours", body, "application/x-ndjson")).toMatchObject({ added: 36 });
  expect(await graft.datasets.add("colours", [{ text: "a red bike", label: "red" }])).toMatchObject({ added: 1 });
  expect((await graft.datasets.examples("colours", { limit: 2, label: "red" })).data).toHaveLength(2);
  const exported = await new Response(await graft.datasets.export("colours")).text();
  expect(exported.trim().split("\n")).toHaveLength(37);
  const csv = await new Response(await graft.datasets.export("colours", { format: "csv" })).text();
  expect(csv.split("\r\n")).toHaveLength(39);
  const [bike] = (await graft.datasets.examples("colours", { contains: "bike", label: "red" })).data;
  expect(await graft.datasets.example("colours", bike?.id ?? "")).toEqual(bike);
  expect(await graft.datasets.changeExample("colours", bike?.id ?? "", { label: "crimson" })).toMatchObject({
    text: bike?.text,
  });
  const rename = { label: "crimson", to: "scarlet" };
  expect(await graft.datasets.renameLabel("colours", rename, { idempotencyKey: "a" })).toMatchObject({ updated: 1 });
  expect(await graft.datasets.deleteExamples("colours", { contains: "bike", dry_run: true })).toMatchObject({
    dry_run: true,
  });
  expect(await graft.datasets.deleteLabel("colours", "scarlet")).toMatchObject({ deleted: 1 });
  await graft.datasets.add("colours", [{ id: "e", text: "one more", label: "red" }]);
  expect(await graft.datasets.deleteExample("colours", "e")).toMatchObject({ deleted: true });
  const first = await graft.heads.train({ name: "colour", dataset: "colours", method: "head" });
  const second = await graft.heads.train({ name: "colour", dataset: "colours", method: "head", promote: false });
  expect([first.version, second.version]).toEqual([1, 2]);
  const tested = await graft.evaluations.create({ head: "colour", dataset: "colours", compare_with: 2 });
  expect(tested).toMatchObject({
    version: 1,
    trained_on: tested.dataset.examples,
    comparison: { fixed: 0, broken: 0 },
  });
  expect(await graft.evaluations.get(tested.id)).toEqual(tested);
  expect((await graft.evaluations.list({ head: "colour" })).last_id).toBe(tested.id);
  expect((await graft.evaluations.errors(tested.id, { type: "broken" })).data).toEqual([]);
  expect((await graft.heads.traffic("colour", { shadow: [2] })).shadow).toEqual([2]);
  expect((await graft.heads.traffic("colour")).versions).toEqual([{ version: 1, share: 1 }]);
  expect((await graft.heads.trafficReport("colour")).versions.map(({ version }) => version)).toEqual([2, 1]);
  expect((await graft.heads.promote("colour", 2)).active_version).toBe(2);
  expect((await graft.heads.versions("colour")).data.map(({ version }) => version)).toEqual([2, 1]);
  expect((await graft.heads.get("colour", 1)).version).toBe(1);
  const lexicalHead = await graft.heads.train({
    name: "wordy",
    dataset: "colours",
    method: "head",
    hyperparameters: { lexical: true },
  });
  expect(lexicalHead.training.lexical).toBe(true);
  const { lexical, labels } = await graft.heads.export("wordy", 1);
  expect(lexical?.weights.map((row) => row.length)).toEqual(labels.map(() => lexical?.seen.length));
  const { data } = await graft.heads.predict("colour", { input: ["a blue door", { text: "a red cup" }] });
  expect(data.map(({ label }) => label)).toEqual(["blue", "red"]);
  const { id, graft: facts } = (await graft.models.list()).data[0] ?? expect.unreachable();
  expect((await graft.models.get(id)).graft).toEqual(facts);
  expect((await graft.embeddings.create({ model: id, input: "a" })).data[0]?.embedding).toHaveLength(facts.dimensions);
  expect(await graft.heads.delete("colour")).toMatchObject({ deleted: true });
  expect(await graft.datasets.delete("colours")).toMatchObject({ deleted: true });

  const refusal = await graft.heads.get("colour").catch((error: unknown) => error);
  expect(refusal).toBeInstanceOf(GraftError);
  expect(refusal).toMatchObject({ status: 404, code: "not_found", requestId: expect.stringMatching(/^req_/) });
  const invalidImport = await graft.datasets
    .create({ name: "NO", task: "single_label", modality: "text" })
    .catch((e: unknown) => e);
  expect(invalidImport).toMatchObject({ status: 400, code: "invalid_parameter", param: "name" });
  const stranger = createClient({ baseUrl: server.url, key: "gk_sdk-test_wrong" });
  await expect(stranger.models.list()).rejects.toMatchObject({ status: 401, code: "invalid_api_key" });
});

test("the documentation comes with the Worker", async () => {
  const read = async (path: string) => (await fetch(`${server.url}${path}`)).text();
  expect(await read("/docs")).toContain('src="/docs/viewer.js"');
  expect(await read("/docs/viewer.js")).toContain("SwaggerUIBundle");
  expect(await read("/docs/viewer.css")).toContain(".swagger-ui");
  const refusal = await fetch(`${server.url}/v1/nothing`).then((response) => response.json() as Promise<never>);
  const { error } = refusal as { error: { doc_url: string } };
  expect(await (await fetch(error.doc_url)).text()).toContain("# not_found");
});

const readDocument = async () => (await fetch(`${server.url}/openapi.json`)).text();

test("the document keeps the recommended rules of Redocly", async () => {
  const config = await createConfig({ extends: ["recommended"] });
  const problems = await lintFromString({ source: await readDocument(), absoluteRef: "openapi.json", config });
  expect(problems.map(({ ruleId, message, location }) => [ruleId, message, location[0]?.pointer])).toEqual([]);
});

test("a client that openapi-typescript generates at its defaults compiles under --strict, and works", async () => {
  const root = resolve(import.meta.dirname, "..", "..");
  const clientFolder = mkdtempSync(join(tmpdir(), "graft-generated-"));
  try {
    symlinkSync(join(root, "node_modules"), join(clientFolder, "node_modules"));
    copyFileSync(join(import.meta.dirname, "generated-client", "use.mts"), join(clientFolder, "use.mts"));
    writeFileSync(join(clientFolder, "api.mts"), astToString(await openapiTS(await readDocument())));
    const run = (...args: string[]) => promisify(execFile)(process.execPath, args, { cwd: clientFolder });
    const options = "--strict --noEmit --target es2024 --module nodenext --allowImportingTsExtensions --types node";
    await run(join(root, "node_modules", "typescript", "bin", "tsc"), ...options.split(" "), "use.mts");
    const { stdout } = await run("use.mts", server.url, adminKey);
    expect(JSON.parse(stdout)).toEqual({
      added: 12,
      version: 1,
      label: "red",
      datasets: ["colours"],
      embeddings: 1,
      code: "not_found",
    });
  } finally {
    rmSync(clientFolder, { recursive: true });
  }
});
