import { createExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { createApp } from "../../src/http/app.ts";
import { toStoredExample } from "../../src/ingest/example.ts";
import { getLedger } from "../../src/tenant/tenant.ts";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";

let key: string;
let tenant: string;
let datasets = 0;

beforeAll(async () => {
  ({ id: tenant, key } = await newTenant());
});

/** A new, empty data set of the tenant of this file; answers its path. */
async function newDataset(task = "single_label", options: object = { modality: "text" }): Promise<string> {
  const name = `d${++datasets}`;
  const answer = await call("POST", "/v1/datasets", key, { name, task, ...options });
  expect(answer.status, answer.text).toBe(201);
  return `/v1/datasets/${name}`;
}

async function addExamples(path: string, ...examples: object[]): Promise<void> {
  const answer = await call("POST", `${path}/examples`, key, { examples });
  expect(answer.json, answer.text).toMatchObject({ rejected: 0 });
}

const listExamples = async (path: string, query = "") => (await call("GET", `${path}/examples${query}`, key)).json.data;

describe("listing examples", () => {
  test("newest first, page by page, as they were sent", async () => {
    const path = await newDataset();
    const examples = Array.from({ length: 5 }, (_, i) => ({ id: `e${i}`, text: `text ${i}`, label: `label ${i % 2}` }));
    await addExamples(path, ...examples);
    const first = (await call("GET", `${path}/examples?limit=3`, key)).json;
    expect(first).toMatchObject({ object: "list", first_id: "e4", last_id: "e2", has_more: true });
    expect(first.data[0]).toEqual({ object: "example", ...examples[4], created_at: expect.any(Number) });
    const second = (await call("GET", `${path}/examples?limit=3&after=e2`, key)).json;
    expect(second.data.map(({ id }: { id: string }) => id)).toEqual(["e1", "e0"]);
    expect(second.has_more).toBe(false);
  });

  test("of one label, of a single one and among many", async () => {
    const single = await newDataset();
    await addExamples(single, { text: "a", label: 'x,"y' }, { text: "b", label: "y" }, { text: "c", label: "x" });
    const texts = async (path: string, label: string) =>
      (await listExamples(path, `?label=${encodeURIComponent(label)}`)).map(({ text }: { text: string }) => text);
    expect(await texts(single, 'x,"y')).toEqual(["a"]);
    expect(await texts(single, "y")).toEqual(["b"]);
    expect(await texts(single, "z")).toEqual([]);
    const multi = await newDataset("multi_label");
    await addExamples(
      multi,
      { text: "a", labels: ["x", "y"] },
      { text: "b", labels: ["y"] },
      { text: "c", labels: [] },
    );
    expect(await texts(multi, "y")).toEqual(["b", "a"]);
    expect(await texts(multi, "x")).toEqual(["a"]);
  });

  test("refuses a page that begins after an example of another dataset", async () => {
    const path = await newDataset();
    await addExamples(await newDataset(), { id: "elsewhere", text: "a", label: "x" });
    expectError(await call("GET", `${path}/examples?after=elsewhere`, key), 400, "invalid_parameter", "after");
  });
});

describe("what is stored comes back", () => {
  const unusualExamples = [
    "NUL \u0000 in the middle",
    "\u0000",
    "tab\tand\r\nbreaks",
    "__proto__",
    "constructor",
    "\ufeffwith a byte order mark",
    "e\u0301 and \u00e9",
    "\u{1f600}\u200d\u{1f525}",
    "\u202eright to left",
    'quotes " and \\ and \u0027',
    "' ; DROP TABLE examples; --",
    " padded ",
    "\u007f\u0080\u2028\u2029",
  ];

  /** Labels are trimmed and composed. */
  const storedLabel = (label: string) => label.trim().normalize("NFC");

  test.each(unusualExamples)("the label, id and text %j", async (value) => {
    const path = await newDataset();
    const label = storedLabel(value);
    await addExamples(
      path,
      { id: value, text: `text ${value}`, label: value },
      { text: `other ${value}`, label: `${value}2` },
    );
    const response = await call("GET", path, key);
    expect(new Map(Object.entries(JSON.parse(response.text).labels))).toEqual(
      new Map([
        [label, 1],
        [storedLabel(`${value}2`), 1],
      ]),
    );
    expect(await listExamples(path, `?label=${encodeURIComponent(label)}`)).toMatchObject([
      { id: value, text: `text ${value}`, label },
    ]);
    const examplePath = `${path}/examples/${encodeURIComponent(value)}`;
    const patched = await call("PATCH", examplePath, key, { text: `new ${value}` });
    expect(patched.json, patched.text).toMatchObject({ id: value, text: `new ${value}`, label });
    expect((await call("DELETE", examplePath, key)).json).toEqual({ id: value, object: "example", deleted: true });
  });

  test.each(unusualExamples)("the label %j among many", async (value) => {
    const path = await newDataset("multi_label");
    const label = storedLabel(value);
    await addExamples(path, { text: "a", labels: [value, "other"] }, { text: "b", labels: [`${value}2`] });
    expect(new Map(Object.entries((await call("GET", path, key)).json.labels))).toEqual(
      new Map([
        [label, 1],
        [storedLabel(`${value}2`), 1],
        ["other", 1],
      ]),
    );
    const examples = await listExamples(path, `?label=${encodeURIComponent(label)}`);
    expect(examples).toHaveLength(1);
    expect(examples[0].labels.toSorted()).toEqual([label, "other"].toSorted());
  });

  test("lone surrogates, which no UTF-8 can hold, as U+FFFD", async () => {
    const path = await newDataset();
    await addExamples(path, { id: "\ud800", text: "half \udc00 a pair", label: "\ud83d" });
    expect(await listExamples(path)).toMatchObject([{ id: "\ufffd", text: "half \ufffd a pair", label: "\ufffd" }]);
    expect((await call("GET", path, key)).json.labels).toEqual({ "\ufffd": 1 });
  });

  test.each(["a/b", "a%2Fb", "100%", "%zz", "ключ", "a b+c", "?x=1#y", "e".repeat(256)])(
    "the id %s in a path",
    async (id) => {
      const path = await newDataset();
      await addExamples(path, { id, text: "a", label: "x" });
      const answer = await call("PATCH", `${path}/examples/${encodeURIComponent(id)}`, key, { label: "y" });
      expect(answer.json, answer.text).toMatchObject({ id, label: "y" });
    },
  );

  test("embeddings, as 32-bit floats", async () => {
    const path = await newDataset("regression", { modality: "embedding", dimensions: 3 });
    const embedding = [1.5, -0.25, 1e6];
    await addExamples(path, { id: "e", embedding, value: -1.25e-7 });
    expect(await listExamples(path)).toMatchObject([{ id: "e", embedding, value: -1.25e-7 }]);
    expect((await call("GET", path, key)).json.labels).toEqual({});
  });
});

describe("changing an example", () => {
  test("changes what is given and keeps the rest", async () => {
    const path = await newDataset();
    await addExamples(path, { id: "e", text: "a", label: "x" });
    const answer = await call("PATCH", `${path}/examples/e`, key, { label: "y" });
    expect(answer.status).toBe(200);
    expect(answer.json).toEqual({ object: "example", id: "e", text: "a", label: "y", created_at: expect.any(Number) });
    expect((await call("PATCH", `${path}/examples/e`, key, { text: "b" })).json).toMatchObject({
      text: "b",
      label: "y",
    });
    expect((await call("GET", path, key)).json).toMatchObject({ labels: { y: 1 }, examples: 1, revision: 3 });
  });

  test("at the same time as others loses none of the changes that were answered with 200", async () => {
    const path = await newDataset();
    await addExamples(path, { id: "e", text: "a", label: "x" });
    const changes = [{ text: "b" }, { label: "y" }, { text: "b" }, { label: "y" }];
    const answers = await Promise.all(changes.map((body) => call("PATCH", `${path}/examples/e`, key, body)));
    const expected = { text: "a", label: "x" };
    for (const [i, answer] of answers.entries()) {
      if (answer.status === 200) Object.assign(expected, changes[i]);
      else expectError(answer, 409, "dataset_changed");
    }
    expect(answers.map(({ status }) => status)).toContain(200);
    expect(await listExamples(path)).toMatchObject([{ id: "e", ...expected }]);
  });

  test("that another request has changed since it was read is refused", async () => {
    const path = await newDataset();
    await addExamples(path, { id: "e", text: "a", label: "x" });
    const remote = getLedger(env.TENANT, tenant);
    const read = await remote.getExample(path.replace("/v1/datasets/", ""), "e");
    if (!read.ok) throw new Error(read.failure.message);
    const { dataset: row, row: previousRow } = read.value;
    await call("PATCH", `${path}/examples/e`, key, { label: "y" });
    const change = (label: string) =>
      remote.replaceExample(row, {
        id: "e",
        expectedHash: previousRow.content_hash,
        example: toStoredExample(null, "b", label),
      });
    expect(await change("x")).toMatchObject({ ok: false, failure: { code: "dataset_changed", retryAfter: 1 } });
    expect(await listExamples(path)).toMatchObject([{ id: "e", text: "a", label: "y" }]);
  });

  test("to one more label than a dataset may have is refused", async () => {
    const path = await newDataset();
    const limit = limits.labels_per_dataset;
    await addExamples(
      path,
      ...Array.from({ length: limit + 1 }, (_, i) => ({ id: `e${i}`, text: `${i}`, label: `${i % limit}` })),
    );
    const refused = await call("PATCH", `${path}/examples/e${limit}`, key, { label: "one more" });
    expectError(refused, 422, "limit_exceeded");
    expect(refused.json.error.details).toEqual({ limit, actual: limit + 1 });
    expect((await call("GET", path, key)).json).toMatchObject({ labels: { 0: 2 }, revision: 1 });
    expect((await call("PATCH", `${path}/examples/e1`, key, { label: "another" })).status).toBe(200);
  });

  test("does not count as a change where nothing is changed", async () => {
    const path = await newDataset();
    await addExamples(path, { id: "e", text: "a", label: "x" });
    for (const unchangedPatch of [{}, { text: "a" }, { label: "x" }]) {
      expect((await call("PATCH", `${path}/examples/e`, key, unchangedPatch)).status).toBe(200);
    }
    expect((await call("GET", path, key)).json.revision).toBe(1);
  });

  test.each<[unknown, number, string, string]>([
    [{ label: "" }, 400, "invalid_parameter", "label"],
    [{ label: 7 }, 400, "invalid_parameter", "label"],
    [{ label: "x".repeat(257) }, 422, "limit_exceeded", "label"],
    [{ labels: ["x"] }, 422, "task_mismatch", "labels"],
    [{ value: 1 }, 422, "task_mismatch", "value"],
    [{ text: "" }, 422, "input_empty", "text"],
    [{ text: " \n\t" }, 422, "input_empty", "text"],
    [{ text: "x".repeat(32_769) }, 422, "input_too_long", "text"],
    [{ text: null }, 400, "invalid_parameter", "text"],
    [{ embedding: [1] }, 400, "invalid_parameter", "embedding"],
    [{ id: "f" }, 400, "unknown_parameter", "id"],
    [{ created_at: 1 }, 400, "unknown_parameter", "created_at"],
  ])("refuses %j", async (body, status, code, param) => {
    const path = await newDataset();
    await addExamples(path, { id: "e", text: "a", label: "x" });
    const answer = await call("PATCH", `${path}/examples/e`, key, body);
    expectError(answer, status, code as "invalid_parameter", param);
    expect(await listExamples(path)).toMatchObject([{ id: "e", text: "a", label: "x" }]);
  });
});

test("deleting an example takes it alone", async () => {
  const path = await newDataset();
  await addExamples(path, { id: "e", text: "a", label: "x" }, { id: "f", text: "b", label: "y" });
  const answer = await call("DELETE", `${path}/examples/e`, key);
  expect(answer.status).toBe(200);
  expect(answer.json).toEqual({ id: "e", object: "example", deleted: true });
  expect((await call("GET", path, key)).json).toMatchObject({ examples: 1, labels: { y: 1 }, revision: 2 });
  expectError(await call("DELETE", `${path}/examples/e`, key), 404, "not_found");
  expectError(await call("PATCH", `${path}/examples/e`, key, { label: "z" }), 404, "not_found");
});

describe("export", () => {
  test("gives everything, oldest first, as lines that another dataset takes", async () => {
    const path = await newDataset("multi_label");
    const examples = Array.from({ length: 1200 }, (_, i) => ({
      id: `id ${i}`,
      text: `line ${i}\n"quoted" \u0000 ${"x".repeat(i)}`,
      labels: [`a${i % 3}`, "b"],
    }));
    await addExamples(path, ...examples);
    const exported = await call("GET", `${path}/export`, key);
    expect(exported.status).toBe(200);
    expect(exported.headers.get("content-type")).toBe("application/x-ndjson");
    expect(
      exported.text
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line)),
    ).toEqual(examples);
    const copy = await newDataset("multi_label");
    const ndjson = { "content-type": "application/x-ndjson" };
    const imported = await call("POST", `${copy}/examples`, key, exported.text, ndjson);
    expect(imported.json).toMatchObject({ added: 1200, rejected: 0 });
    expect((await call("GET", `${copy}/export`, key)).text).toBe(exported.text);
  });

  test("goes in parts that one message can hold, whatever makes the examples large", async () => {
    const path = await newDataset("multi_label");
    const labels = Array.from({ length: 256 }, (_, i) => `${i} `.padEnd(256, "\u5b57"));
    const examples = Array.from({ length: 60 }, (_, i) => ({
      id: `${i}`,
      text: `text ${i}`,
      labels: labels.toSorted(),
    }));
    const body = examples.map((example) => JSON.stringify(example)).join("\n");
    const imported = await call("POST", `${path}/examples`, key, body, { "content-type": "application/x-ndjson" });
    expect(imported.json, imported.text).toMatchObject({ added: 60 });
    const remote = getLedger(env.TENANT, tenant);
    const dataset = await remote.findDataset(path.replace("/v1/datasets/", ""));
    if (!dataset.ok) throw new Error(dataset.failure.message);
    const part = await remote.readExamples(dataset.value, -1);
    expect(JSON.stringify(part).length).toBeLessThan(1_200_000);
    expect((await call("GET", `${path}/export`, key)).text).toBe(`${body}\n`);
  });

  test("breaks off where the dataset is deleted meanwhile, so that a part is not taken for the whole", async () => {
    const path = await newDataset();
    await addExamples(path, ...Array.from({ length: 200 }, (_, i) => ({ text: `${i}`.padEnd(30_000), label: "x" })));
    const request = new Request(`http://graft.test${path}/export`, { headers: { authorization: `Bearer ${key}` } });
    const exported = await createApp().fetch(request, env, createExecutionContext());
    const reader = exported.body?.getReader();
    expect((await reader?.read())?.value?.length).toBeLessThan(2_000_000);
    expect((await call("DELETE", path, key)).status).toBe(200);
    const readOn = async () => {
      while (!(await reader?.read())?.done);
    };
    await expect(readOn()).rejects.toThrow("not_found");
  });

  test("of an empty dataset is empty", async () => {
    const exported = await call("GET", `${await newDataset()}/export`, key);
    expect(exported.status).toBe(200);
    expect(exported.text).toBe("");
  });
});

describe("who may", () => {
  const routes: [string, string, unknown?][] = [
    ["POST", "/v1/datasets/tickets/examples", { examples: [{ text: "a", label: "x" }] }],
    ["GET", "/v1/datasets/tickets/examples"],
    ["GET", "/v1/datasets/tickets/export"],
    ["PATCH", "/v1/datasets/tickets/examples/e", { label: "x" }],
    ["DELETE", "/v1/datasets/tickets/examples/e"],
  ];
  test.each(routes)("%s %s: a key with the scope train, of the tenant itself", async (method, path, body) => {
    const owner = await tenantWithTickets();
    await call("POST", "/v1/datasets/tickets/examples", owner.key, { examples: [{ id: "e", text: "a", label: "x" }] });
    await expectAuthorization(owner.key, "train", method, path, body);
    await expectHidden(method, path, body, async () => {
      expect((await call("GET", "/v1/datasets/tickets", owner.key)).json).toMatchObject({ examples: 19, revision: 2 });
      await call("DELETE", "/v1/datasets/tickets", owner.key);
    });
  });
});
