/** Whatever is sent, no route answers 500, and what was stored before stays: `call` asserts the first. */
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { openApiDocument } from "./openapi.ts";

let key: string;
/** Of what has an id that is not chosen: the URL's path, and the id. */
let inboundPath: string;
let endpointId: string;

beforeAll(async () => {
  key = (await tenantWithTickets()).key;
  const trained = await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets" });
  expect(trained.status, trained.text).toBe(201);
  await call("POST", "/v1/datasets/tickets/examples", key, { examples: [{ id: "e", text: "a", label: "billing" }] });
  const hook = { name: "h", action: "predict", head: "support", fields: { text: "/text" }, verify: { scheme: "none" } };
  inboundPath = new URL((await call("POST", "/v1/inbound_hooks", key, hook)).json.url).pathname;
  const listener = { url: "https://example.com/hook", events: ["webhook.test"] };
  endpointId = (await call("POST", "/v1/webhook_endpoints", key, listener)).json.id;
});

const examples = tickets().slice(0, 4);

/** A body that each route takes: the beginning of most that are sent. */
const validRequests: Record<string, { path?: string | (() => string); token?: string; body: unknown }> = {
  "POST /v1/admin/tenants": { token: env.ADMIN_KEY, body: { id: "acme", name: "Acme" } },
  "PATCH /v1/admin/tenants/{id}": {
    path: "/v1/admin/tenants/absent-tenant",
    token: env.ADMIN_KEY,
    body: { name: "Other", status: "suspended" },
  },
  "POST /v1/admin/tenants/{id}/api_keys": {
    path: "/v1/admin/tenants/other-tenant/api_keys",
    token: env.ADMIN_KEY,
    body: { name: "x", scopes: ["train"], expires_at: 2_000_000_000 },
  },
  "POST /v1/api_keys": { body: { name: "x", scopes: ["predict", "manage"], expires_at: 2_000_000_000 } },
  "POST /v1/datasets": { body: { name: "d", task: "single_label", modality: "text", out_of_scope_label: "none" } },
  "POST /v1/datasets/{name}/examples": { path: "/v1/datasets/other/examples", body: { examples } },
  "PATCH /v1/datasets/{name}/examples/{id}": { path: "/v1/datasets/other/examples/e", body: { text: "a", label: "x" } },
  "POST /v1/datasets/{name}/labels/rename": { path: "/v1/datasets/other/labels/rename", body: { label: "x", to: "y" } },
  "POST /v1/datasets/{name}/labels/delete": { path: "/v1/datasets/other/labels/delete", body: { label: "x" } },
  "POST /v1/datasets/{name}/examples/delete": {
    path: "/v1/datasets/other/examples/delete",
    body: { ids: ["e"], dry_run: true },
  },
  "POST /v1/embeddings": { body: { model: "hash-text-1", input: ["a", "b"], encoding_format: "float" } },
  "POST /v1/fine_tuning/jobs": {
    body: {
      model: "hash-text-1",
      training_file: "dataset:tickets",
      dataset_revision: 1,
      validation_file: null,
      seed: 1,
      suffix: "s",
      metadata: { a: "b" },
      head: "h",
      promote: "never",
      test_dataset: "tickets",
      trainable: "head",
      method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 1, batch_size: "auto" } } },
    },
  },
  "POST /v1/heads": {
    body: {
      name: "h",
      examples,
      hyperparameters: { l2: 1, class_weight: null, lexical: "auto", seed: 1 },
      evaluation: { method: "auto", folds: 2, fraction: 0.2, detail: "summary" },
      clamp: false,
      test_dataset: "tickets",
      promote: true,
      method: "head",
    },
  },
  "POST /v1/datasets/{name}/issues/resolve": {
    path: "/v1/datasets/tickets/issues/resolve",
    body: { items: [{ id: "issue_0", action: "relabel", label: "login" }] },
  },
  "POST /v1/evaluations": { body: { head: "support", version: 1, dataset: "tickets", compare_with: 2 } },
  "POST /v1/recommendations": {
    body: {
      dataset: "tickets",
      backbone: "text-static-1",
      test_dataset: "tickets",
      budget: { seconds: 9, usd: 1 },
      measure: false,
    },
  },
  "POST /v1/heads/{name}/promote": { path: "/v1/heads/support/promote", body: { version: 1 } },
  "POST /v1/heads/{name}/feedback": { path: "/v1/heads/absent/feedback", body: { examples } },
  "PUT /v1/heads/{name}/policy": {
    path: "/v1/heads/support/policy",
    body: { retrain_after_examples: null, retrain_on_drift: false, promote: "never", test_dataset: "tickets" },
  },
  "PUT /v1/heads/{name}/traffic": {
    path: "/v1/heads/support/traffic",
    body: { versions: [{ version: 1, share: 1 }], shadow: [] },
  },
  "POST /v1/inbound_hooks": {
    body: {
      name: "n",
      action: "learn",
      dataset: "other",
      fields: { text: ["/a", "/b"], label: "/label", id: "/id" },
      on_unknown_label: "add",
      verify: { scheme: "hmac_sha256", header: "x-signature", prefix: "", encoding: "hex" },
    },
  },
  "POST /v1/inbound/{token}": { path: () => inboundPath, body: { text: "my card was charged twice" } },
  "POST /v1/webhook_endpoints": {
    body: { url: "https://example.com/hook", events: ["webhook.test"], description: "d" },
  },
  "PATCH /v1/webhook_endpoints/{id}": {
    path: () => `/v1/webhook_endpoints/${endpointId}`,
    body: { url: "https://example.com/hook", events: ["webhook.test"], enabled: true, description: null },
  },
  "POST /v1/webhook_endpoints/{id}/redeliver": {
    path: () => `/v1/webhook_endpoints/${endpointId}/redeliver`,
    body: { since: 1_700_000_000 },
  },
  "PUT /v1/heads/{name}/capture": {
    path: "/v1/heads/support/capture",
    body: { sampling_rate: 0.5, max_score: 0.6, retention_days: 30 },
  },
  "POST /v1/heads/{name}/captured/label": {
    path: "/v1/heads/support/captured/label",
    body: { items: [{ id: "cap_1", label: "billing" }] },
  },
  "POST /v1/heads/{name}/captured/delete": { path: "/v1/heads/support/captured/delete", body: { contains: "a" } },
  "POST /v1/heads/{name}/label_next": {
    path: "/v1/heads/support/label_next",
    body: { inputs: ["a", { text: "b" }], count: 2 },
  },
  "POST /v1/heads/{name}/predict": {
    path: "/v1/heads/support/predict",
    body: {
      input: ["a", { text: "b" }],
      top_k: 2,
      version: 1,
      coverage: 0.9,
      out_of_scope_threshold: 0.5,
      explain: true,
    },
  },
};

const anyJson = fc.oneof(
  fc.jsonValue({ stringUnit: "binary", maxDepth: 4 }),
  fc.constantFrom<unknown>(-0, 1e308, 1e-320, 2 ** 53, "\ud800", "\u0000", "__proto__"),
);

/** The value with the part at `path` replaced; the path's numbers choose among the fields there are. */
function replaceAt(value: unknown, path: readonly number[], replacement: unknown): unknown {
  const [index, ...remainingPath] = path;
  if (index === undefined || typeof value !== "object" || value === null) return replacement;
  const entries = Object.entries(value);
  if (entries.length === 0) return replacement;
  const chosenIndex = index % entries.length;
  const changedEntries = entries.map(([name, part], i) => [
    name,
    i === chosenIndex ? replaceAt(part, remainingPath, replacement) : part,
  ]);
  return Array.isArray(value) ? changedEntries.map(([, part]) => part) : Object.fromEntries(changedEntries);
}

const readState = async () => {
  const reads = ["/v1/datasets/tickets", "/v1/heads/support", "/v1/datasets/tickets/export"];
  return Promise.all(reads.map(async (path) => (await call("GET", path, key)).text));
};

test("every route that takes JSON is tried here", async () => {
  const document = await openApiDocument();
  const jsonRoutes = Object.entries(document.paths).flatMap(([path, item]) =>
    Object.entries(item).flatMap(([method, { requestBody }]) =>
      requestBody?.content["application/json"] ? [`${method.toUpperCase()} ${path}`] : [],
    ),
  );
  // What is posted to a hook is read as JSON, whatever it is said to be.
  expect(Object.keys(validRequests).toSorted()).toEqual([...jsonRoutes, "POST /v1/inbound/{token}"].toSorted());
});

describe("any JSON value as a body, or as a part of a good one", () => {
  beforeAll(async () => {
    await newTenant("other-tenant");
    await call("POST", "/v1/datasets", key, { name: "other", task: "single_label", modality: "text" });
    await call("POST", "/v1/datasets/other/examples", key, { examples: [{ id: "e", text: "a", label: "x" }] });
    // The dataset shows what is embedded of it, which a recommendation does first.
    await call("POST", "/v1/recommendations", key, { dataset: "tickets", backbone: "text-static-1" });
  });

  test.each(Object.entries(validRequests))("%s", async (operation, { path, token, body }) => {
    const [method = "", template = ""] = operation.split(" ");
    const before = await readState();
    const bodies = fc.oneof(
      anyJson,
      fc
        .tuple(fc.array(fc.nat(), { minLength: 1, maxLength: 4 }), anyJson)
        .map(([positions, replacement]) => replaceAt(body, positions, replacement)),
    );
    await fc.assert(
      fc.asyncProperty(bodies, async (value) => {
        // The JSON itself is sent: `undefined` and lone surrogates included, in whatever form JSON gives them.
        const json = JSON.stringify(value) ?? "null";
        const requestPath = typeof path === "function" ? path() : (path ?? template);
        await call(method, requestPath, token ?? key, json, { "content-type": "application/json" });
      }),
      { numRuns: 40 },
    );
    expect(await readState()).toEqual(before);
  });
});

describe("any text as an import", () => {
  const cell = fc.oneof(
    fc.constantFrom("a", '"', '""', ",", "\n", "\r\n", "\r", " ", "x\ny", "\u0000", "|", "\ufeff"),
    fc.string({ unit: "binary" }),
  );
  const table = fc.array(cell, { maxLength: 30 }).map((cells) => cells.join(""));

  test.each(["single_label", "multi_label", "regression"])(
    "of CSV, with or without a header, into %s",
    async (task) => {
      const { key: freshKey } = await newTenant();
      await call("POST", "/v1/datasets", freshKey, { name: "d", task, modality: "text" });
      const target = { single_label: "label", multi_label: "labels", regression: "value" }[task];
      const header = fc.constantFrom(`text,${target}\n`, `id,text,${target}\r\n`, "");
      await fc.assert(
        fc.asyncProperty(header, table, async (first, rest) => {
          const answer = await call("POST", "/v1/datasets/d/examples?dry_run=true", freshKey, first + rest, {
            "content-type": "text/csv",
          });
          expect([200, 400, 422]).toContain(answer.status);
          const { status } = await call("POST", "/v1/datasets/d/examples", freshKey, first + rest, {
            "content-type": "text/csv",
          });
          expect(status).toBe(answer.status);
        }),
        { numRuns: 60 },
      );
    },
  );

  test("of NDJSON", async () => {
    const { key: freshKey } = await newTenant();
    await call("POST", "/v1/datasets", freshKey, { name: "d", task: "single_label", modality: "text" });
    const importLine = fc.oneof(
      table,
      fc.json(),
      fc
        .record({ text: fc.string({ unit: "binary" }), label: fc.string({ unit: "binary" }) })
        .map((row) => JSON.stringify(row)),
    );
    const lines = fc.array(fc.tuple(importLine, fc.constantFrom("\n", "\r\n", "")), { maxLength: 10 });
    await fc.assert(
      fc.asyncProperty(lines, async (parts) => {
        const body = parts.flat().join("");
        const before = (await call("GET", "/v1/datasets/d", freshKey)).json;
        const answer = await call("POST", "/v1/datasets/d/examples", freshKey, body, {
          "content-type": "application/x-ndjson",
        });
        if (answer.status !== 200) {
          expect(answer.status, answer.text).toBe(answer.json.error.code === "invalid_json" ? 400 : 422);
          expect((await call("GET", "/v1/datasets/d", freshKey)).json).toEqual(before);
          return;
        }
        const { added, updated, rejected, dataset } = answer.json;
        expect(dataset.examples).toBe(before.examples + added);
        expect(dataset.revision).toBe(before.revision + (added + updated > 0 ? 1 : 0));
        expect(rejected).toBeLessThanOrEqual(body.split("\n").length);
      }),
      { numRuns: 40 },
    );
  });
});

test("any JSON values as the lines of a file", async () => {
  const { key: freshKey } = await newTenant();
  const lines = [
    { id: "1", text: "a", label: "x" },
    { embedding: [1, 2], value: 1 },
    {
      messages: [
        { role: "user", content: [{ type: "text", text: "a" }] },
        { role: "assistant", content: "x" },
      ],
    },
  ];
  const path = fc.array(fc.nat(), { maxLength: 5 });
  const mutatedLine = fc.tuple(fc.constantFrom(...lines), path, fc.option(anyJson, { nil: undefined }));
  await fc.assert(
    fc.asyncProperty(fc.array(mutatedLine, { maxLength: 5 }), async (parts) => {
      const content = parts.map(([validLine, positions, replacement]) =>
        JSON.stringify(replacement === undefined ? validLine : replaceAt(validLine, positions, replacement)),
      );
      const form = `--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--x\r\ncontent-disposition: form-data; name="file"\r\n\r\n${content.join("\n")}\r\n--x--\r\n`;
      const answer = await call("POST", "/v1/files", freshKey, form, {
        "content-type": "multipart/form-data; boundary=x",
      });
      expect([200, 422], answer.text).toContain(answer.status);
    }),
    { numRuns: 150 },
  );
});

test("any path and query", async () => {
  const segment = fc.oneof(
    fc.constantFrom(
      "v1",
      "datasets",
      "tickets",
      "examples",
      "heads",
      "support",
      "versions",
      "1",
      "report",
      "models",
      "files",
      "fine_tuning",
      "jobs",
    ),
    fc.string({ unit: "binary", maxLength: 20 }).map((text) => encodeURIComponent(text.toWellFormed())),
    fc.string({ maxLength: 10 }).map((text) => text.replace(/[\\#?]/g, "%")),
  );
  const query = fc.webQueryParameters();
  const method = fc.constantFrom("GET", "DELETE", "HEAD", "OPTIONS");
  await fc.assert(
    fc.asyncProperty(method, fc.array(segment, { maxLength: 6 }), query, async (verb, path, search) => {
      // What there is may be deleted by this, but nothing may break.
      const answer = await call(verb, `/${path.join("/")}?${search}`, key);
      expect(answer.status).toBeLessThan(500);
    }),
    { numRuns: 150 },
  );
});
