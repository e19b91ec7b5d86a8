import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, test } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";

const textDataset = { task: "single_label", modality: "text" } as const;

describe("creating a dataset", () => {
  test.each([
    [{ name: "a", task: "single_label", modality: "text" }],
    [{ name: "0.b_c-d", task: "multi_label", modality: "text" }],
    [{ name: "r", task: "regression", modality: "embedding", dimensions: 3 }],
    [{ name: "o", task: "single_label", modality: "text", out_of_scope_label: "none of these" }],
    [{ name: "x".repeat(64), task: "single_label", modality: "embedding", dimensions: 4096 }],
  ])("answers it: %j", async (body) => {
    const { key } = await newTenant();
    const answer = await call("POST", "/v1/datasets", key, body);
    expect(answer.status).toBe(201);
    expect(answer.json).toEqual({
      object: "dataset",
      id: body.name,
      dimensions: null,
      out_of_scope_label: null,
      ...body,
      examples: 0,
      labels: {},
      embedded: {},
      revision: 0,
      created_at: expect.any(Number),
      updated_at: expect.any(Number),
    });
    expect((await call("GET", `/v1/datasets/${body.name}`, key)).json).toEqual(answer.json);
  });

  test.each<[string, unknown, number, string, string]>([
    ["no name", { ...textDataset }, 400, "missing_parameter", "name"],
    ["a name with a capital", { ...textDataset, name: "Tickets" }, 400, "invalid_parameter", "name"],
    ["a name with a slash", { ...textDataset, name: "a/b" }, 400, "invalid_parameter", "name"],
    ["a name that is a path", { ...textDataset, name: "../../etc" }, 400, "invalid_parameter", "name"],
    ["a name with a leading dot", { ...textDataset, name: ".a" }, 400, "invalid_parameter", "name"],
    ["a name with a line break", { ...textDataset, name: "a\n" }, 400, "invalid_parameter", "name"],
    ["a name with a NUL", { ...textDataset, name: "a\u0000" }, 400, "invalid_parameter", "name"],
    ["a name in another script", { ...textDataset, name: "данные" }, 400, "invalid_parameter", "name"],
    ["a name of 65 characters", { ...textDataset, name: "a".repeat(65) }, 400, "invalid_parameter", "name"],
    ["an empty name", { ...textDataset, name: "" }, 400, "invalid_parameter", "name"],
    ["a number for a name", { ...textDataset, name: 7 }, 400, "invalid_parameter", "name"],
    ["an unknown task", { name: "a", task: "ranking", modality: "text" }, 400, "invalid_parameter", "task"],
    ["no modality", { name: "a", task: "regression" }, 400, "missing_parameter", "modality"],
    ["images", { name: "a", task: "single_label", modality: "image" }, 422, "modality_not_supported", "modality"],
    [
      "embeddings of unknown length",
      { name: "a", task: "regression", modality: "embedding" },
      400,
      "missing_parameter",
      "dimensions",
    ],
    ["texts with dimensions", { name: "a", ...textDataset, dimensions: 3 }, 400, "invalid_parameter", "dimensions"],
    [
      "no dimensions at all",
      { name: "a", task: "regression", modality: "embedding", dimensions: 0 },
      400,
      "invalid_parameter",
      "dimensions",
    ],
    [
      "too many dimensions",
      { name: "a", task: "regression", modality: "embedding", dimensions: 4097 },
      422,
      "limit_exceeded",
      "dimensions",
    ],
    [
      "half a dimension",
      { name: "a", task: "regression", modality: "embedding", dimensions: 2.5 },
      400,
      "invalid_parameter",
      "dimensions",
    ],
    [
      "an out-of-scope label of a regression",
      { name: "a", task: "regression", modality: "text", out_of_scope_label: "x" },
      422,
      "task_mismatch",
      "out_of_scope_label",
    ],
    [
      "a long out-of-scope label",
      { name: "a", ...textDataset, out_of_scope_label: "x".repeat(257) },
      422,
      "limit_exceeded",
      "out_of_scope_label",
    ],
    ["an unknown field", { name: "a", ...textDataset, colour: "red" }, 400, "unknown_parameter", "colour"],
  ])("refuses %s", async (_what, body, status, code, param) => {
    const { key } = await newTenant();
    expectError(await call("POST", "/v1/datasets", key, body), status, code as "invalid_parameter", param);
    expect((await call("GET", "/v1/datasets", key)).json.data).toEqual([]);
  });

  test("one more than a tenant may have is refused with the limit and the figure", async () => {
    const { id, key } = await newTenant();
    await runInDurableObject(env.TENANT.get(env.TENANT.idFromName(id)), (_, { storage }) =>
      storage.sql.exec(
        `WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < ?)
         INSERT INTO datasets (name, task, modality, revision, next_position, created_at, updated_at)
         SELECT 'd' || n, 'regression', 'text', 0, 0, 0, 0 FROM i`,
        limits.datasets,
      ),
    );
    const answer = await call("POST", "/v1/datasets", key, { name: "more", ...textDataset });
    expectError(answer, 422, "limit_exceeded");
    expect(answer.json.error.details).toEqual({ limit: limits.datasets, actual: limits.datasets });
  });

  test("a name is taken within its tenant alone", async () => {
    const firstTenant = await newTenant();
    const secondTenant = await newTenant();
    const create = (key: string) => call("POST", "/v1/datasets", key, { name: "a", ...textDataset });
    expect((await create(firstTenant.key)).status).toBe(201);
    expectError(await create(firstTenant.key), 409, "already_exists", "name");
    expect((await create(secondTenant.key)).status).toBe(201);
  });
});

test("a dataset counts its examples and labels, and its revision rises with each change", async () => {
  const { key } = await tenantWithTickets();
  const { json } = await call("GET", "/v1/datasets/tickets", key);
  expect(json).toMatchObject({ examples: 18, labels: { billing: 6, login: 6, shipping: 6 }, revision: 1 });
});

test("the list is newest first, page by page", async () => {
  const { key } = await newTenant();
  const names = ["e", "d", "c", "b", "a"];
  for (const name of [...names].reverse()) await call("POST", "/v1/datasets", key, { name, ...textDataset });
  const seenIds: string[] = [];
  for (let after = "", more = true; more; ) {
    const page = (await call("GET", `/v1/datasets?limit=2${after && `&after=${after}`}`, key)).json;
    const ids = page.data.map(({ id }: { id: string }) => id);
    expect(page).toMatchObject({ object: "list", first_id: ids[0], last_id: ids.at(-1) });
    seenIds.push(...ids);
    after = page.last_id;
    more = page.has_more;
  }
  expect(seenIds).toEqual(names);
});

describe("deleting a dataset", () => {
  test("takes its examples with it; its name is free again, and what was there does not come back", async () => {
    const { key } = await tenantWithTickets();
    const answer = await call("DELETE", "/v1/datasets/tickets", key);
    expect(answer.status).toBe(200);
    expect(answer.json).toEqual({ id: "tickets", object: "dataset", deleted: true });
    for (const path of ["", "/examples", "/export", "/examples/x"]) {
      const method = path === "/examples/x" ? "DELETE" : "GET";
      expectError(await call(method, `/v1/datasets/tickets${path}`, key), 404, "not_found");
    }
    expectError(await call("DELETE", "/v1/datasets/tickets", key), 404, "not_found");
    const again = await call("POST", "/v1/datasets", key, { name: "tickets", ...textDataset });
    expect(again.json).toMatchObject({ examples: 0, labels: {}, revision: 0 });
  });

  test("leaves the heads that were trained on it", async () => {
    const { key } = await tenantWithTickets();
    await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets" });
    await call("DELETE", "/v1/datasets/tickets", key);
    const predicted = await call("POST", "/v1/heads/support/predict", key, { input: "refund my invoice" });
    expect(predicted.status).toBe(200);
  });
});

test("a page of datasets holds no more labels than one message can", async () => {
  const { key } = await newTenant();
  const labels = (dataset: number) =>
    Array.from({ length: 10_000 }, (_, i) => `{"text":"${i}","label":"${`${dataset} ${i} `.padEnd(256, "x")}"}`);
  for (let i = 0; i < 3; i++) {
    await call("POST", "/v1/datasets", key, { name: `d${i}`, ...textDataset });
    const lines = labels(i).join("\n");
    const type = { "content-type": "application/x-ndjson" };
    expect((await call("POST", `/v1/datasets/d${i}/examples`, key, lines, type)).json.added).toBe(10_000);
  }
  const first = (await call("GET", "/v1/datasets", key)).json;
  expect(first).toMatchObject({ first_id: "d2", last_id: "d1", has_more: true });
  const nextPage = (await call("GET", `/v1/datasets?after=${first.last_id}`, key)).json;
  expect(nextPage).toMatchObject({ first_id: "d0", last_id: "d0", has_more: false });
});

describe("who may", () => {
  test("each route needs a key with the scope train", async () => {
    const { key } = await tenantWithTickets();
    await expectAuthorization(key, "train", "POST", "/v1/datasets", { name: "a", ...textDataset });
    await expectAuthorization(key, "train", "GET", "/v1/datasets");
    await expectAuthorization(key, "train", "GET", "/v1/datasets/tickets");
    await expectAuthorization(key, "train", "DELETE", "/v1/datasets/tickets");
  });

  test.each(["GET", "DELETE"])("another tenant's key finds nothing to %s", async (method) => {
    const { key } = await tenantWithTickets();
    await expectHidden(method, "/v1/datasets/tickets", undefined, async () => {
      expect((await call("GET", "/v1/datasets/tickets", key)).json.examples).toBe(18);
      await call("DELETE", "/v1/datasets/tickets", key);
    });
  });

  test.each(["..%2Fadmin", "%00", "%ff", "%zz", "a%2Fb", "UPPER", "a b"])(
    "a name such as %s is refused",
    async (name) => {
      const { key } = await newTenant();
      expectError(await call("GET", `/v1/datasets/${name}`, key), 400, "invalid_parameter", "name");
    },
  );
});
