import { createExecutionContext, SELF } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { Ajv2020 } from "ajv/dist/2020.js";
import { afterEach, describe, expect, test, vi } from "vitest";
import { textUse } from "../../src/backbones/workerd.ts";
import { edgeBudget, limits } from "../../src/core/limits.ts";
import { createApp } from "../../src/http/app.ts";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { createKey, expectAuthorization } from "./assertions.ts";
import { openApiDocument } from "./openapi.ts";

describe("GET /v1/limits", () => {
  test("shows every limit, and what this tenant has used of those that are counted", async () => {
    const { id, key } = await tenantWithTickets();
    await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets", evaluation: { method: "none" } });
    const answer = await call("GET", "/v1/limits", key);
    expect(answer.status).toBe(200);
    const { datasets, heads, api_keys, files, active_jobs, inbound_hooks, webhook_endpoints, ...otherLimits } = limits;
    const { fine_tuned_backbones, ...others } = otherLimits;
    const numericLimits = { ...others, training_bytes: edgeBudget.bytes, training_operations: edgeBudget.operations };
    expect(answer.json).toEqual({
      object: "limits",
      id,
      limits: {
        ...Object.fromEntries(Object.entries(numericLimits).map(([name, limit]) => [name, { limit }])),
        datasets: { limit: datasets, used: 1 },
        heads: { limit: heads, used: 1 },
        api_keys: { limit: api_keys, used: 1 },
        fine_tuned_backbones: { limit: fine_tuned_backbones, used: 0 },
        files: { limit: files, used: 0 },
        staged_bytes: { limit: limits.staged_bytes, used: 0 },
        history_bytes: { limit: limits.history_bytes, used: 0 },
        evaluations: { limit: limits.evaluations, used: 0 },
        evaluation_bytes: { limit: limits.evaluation_bytes, used: 0 },
        recommendations: { limit: limits.recommendations, used: 0 },
        recommendation_bytes: { limit: limits.recommendation_bytes, used: 0 },
        active_jobs: { limit: active_jobs, used: 0 },
        inbound_hooks: { limit: inbound_hooks, used: 0 },
        webhook_endpoints: { limit: webhook_endpoints, used: 0 },
      },
    });
  });

  test("any key of the tenant may read them", async () => {
    const { key } = await newTenant();
    for (const scope of ["predict", "train", "manage"]) {
      expect((await call("GET", "/v1/limits", await createKey(key, scope))).status).toBe(200);
    }
    await expectAuthorization(key, null, "GET", "/v1/limits");
  });
});

describe("health", () => {
  const remoteBackbone = JSON.stringify([
    { kind: "openai", id: "away", model: "m", dimensions: 3, base_url: "http://127.0.0.1:9", retries: 0 },
  ]);

  test.each(["live", "ready"])("%s tells the status alone, without a key", async (path) => {
    const answer = await call("GET", `/health/${path}`);
    expect(answer.status).toBe(200);
    expect(answer.json).toEqual({ status: "ok" });
  });

  test("that is good writes no log line", async () => {
    const log = vi.spyOn(console, "log").mockImplementation(() => undefined);
    const routes = () => log.mock.calls.map(([line]) => JSON.parse(String(line)).route);
    for (const path of ["/health/live", "/health/ready", "/v1/models"])
      await createApp().fetch(new Request(`http://graft.test${path}`), env, createExecutionContext());
    expect(routes()).toEqual(["GET /v1/models"]);
    log.mockRestore();
  });

  test.each<[string, object]>([
    ["KV", { KV: { get: () => Promise.reject(new Error("no KV")) } }],
    ["R2", { BUCKET: { head: () => Promise.reject(new Error("no R2")) } }],
    ["the default backbone", { DEFAULT_BACKBONE: "none" }],
    ["an answer of a remote default backbone", { DEFAULT_BACKBONE: "away", BACKBONES: remoteBackbone }],
    ["the server key", { SERVER_KEY: "" }],
    ["a backbone that a training by default compares", { DEFAULT_BACKBONE: "auto" }],
  ])("without %s the Worker is not ready, and lives", async (_what, brokenBindings) => {
    const failure = { code: "backend_unavailable", message: "No weights." } as const;
    const embed = vi.spyOn(textUse, "embed").mockResolvedValue({ rows: [], failure });
    const request = (path: string) =>
      createApp().fetch(
        new Request(`http://graft.test${path}`),
        { ...env, ...brokenBindings },
        createExecutionContext(),
      );
    const readiness = await request("/health/ready");
    expect(readiness.status).toBe(503);
    expect(await readiness.json()).toEqual({ status: "unavailable" });
    expect((await request("/health/live")).status).toBe(200);
    embed.mockRestore();
  });
});

test("a ledger without room answers 507 to what writes, and goes on reading", async () => {
  const { id, key } = await tenantWithTickets();
  const ledger = env.TENANT.get(env.TENANT.idFromName(id));
  const fullLedger = new Proxy(ledger, {
    get(target, method) {
      // The words are workerd's, of a server whose disk was full.
      if (method === "createDataset") return () => Promise.reject(new Error("database or disk is full: SQLITE_FULL"));
      return Reflect.get(target, method);
    },
  });
  const TENANT = { idFromName: () => ledger.id, get: () => fullLedger };
  const send = (init: RequestInit) => {
    const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
    const request = new Request("http://graft.test/v1/datasets", { ...init, headers });
    return createApp().fetch(request, { ...env, TENANT }, createExecutionContext());
  };
  const body = JSON.stringify({ name: "more", task: "single_label", modality: "text" });
  const refused = await send({ method: "POST", body });
  expect([refused.status, refused.headers.get("retry-after")]).toEqual([507, "60"]);
  expect(await refused.json()).toMatchObject({ error: { code: "storage_full", type: "capacity_error" } });
  const read = await send({ method: "GET" });
  expect([read.status, await read.json()]).toMatchObject([200, { data: [{ name: "tickets" }] }]);
});

describe("a verdict of readiness", () => {
  /** The same isolate asked again and again, with storage that can be broken and counts how often it is asked. */
  function createIsolate() {
    let isBroken = false;
    let kvCalls = 0;
    const get = async () => {
      kvCalls++;
      if (isBroken) throw new Error("no KV");
      return null;
    };
    const bindings = { ...env, KV: { get } } as unknown as Cloudflare.Env;
    const app = createApp();
    const checkReady = async () =>
      (await app.fetch(new Request("http://graft.test/health/ready"), bindings, createExecutionContext())).status;
    return { ready: checkReady, countKvCalls: () => kvCalls, breakKv: (isFailing: boolean) => (isBroken = isFailing) };
  }
  afterEach(() => vi.useRealTimers());

  test("is kept for five seconds, the good one and the bad one", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    const { ready, countKvCalls, breakKv } = createIsolate();
    expect([await ready(), await ready(), countKvCalls()]).toEqual([200, 200, 1]);
    breakKv(true);
    expect([await ready(), countKvCalls()]).toEqual([200, 1]);
    vi.setSystemTime(Date.now() + 5_001);
    expect([await ready(), await ready(), countKvCalls()]).toEqual([503, 503, 2]);
    breakKv(false);
    vi.setSystemTime(Date.now() + 5_001);
    expect([await ready(), countKvCalls()]).toEqual([200, 3]);
  });

  test("is not kept before the first good one", async () => {
    const { ready, countKvCalls, breakKv } = createIsolate();
    breakKv(true);
    expect([await ready(), await ready(), countKvCalls()]).toEqual([503, 503, 2]);
    breakKv(false);
    expect(await ready()).toBe(200);
  });
});

describe("documentation", () => {
  test("the document names the server that was asked, each time", async () => {
    for (const origin of ["http://graft.test", "https://other.test", "http://graft.test"]) {
      const { servers } = await (await SELF.fetch(`${origin}/openapi.json`)).json<{ servers: unknown }>();
      expect(servers).toEqual([{ url: origin }]);
    }
  });

  test("the document is OpenAPI 3.1 and names every route", async () => {
    const document = await openApiDocument();
    expect(document.openapi).toBe("3.1.0");
    const operations = Object.entries(document.paths).flatMap(([path, item]) =>
      Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`),
    );
    // What a batch endpoint calls is a contract of its own.
    const excludedPaths = /openapi|docs|^\/internal\//;
    const hono = createApp().routes.filter(({ method, path }) => method !== "ALL" && !excludedPaths.test(path));
    const routes = new Set(hono.map(({ method, path }) => `${method} ${path.replace(/:(\w+)/g, "{$1}")}`));
    expect(operations.toSorted()).toEqual([...routes].toSorted());
  });

  test("each operation has a summary, an answer, an error's shape, and says which key it needs", async () => {
    const document = await openApiDocument();
    const operationIds = new Set<unknown>();
    let operations = 0;
    for (const [path, item] of Object.entries(document.paths)) {
      for (const operation of Object.values(item)) {
        expect(operation.summary, path).toBeTypeOf("string");
        expect(operation.description?.length, path).toBeGreaterThan(10);
        expect(operation.operationId, path).toMatch(/^[a-z][A-Za-z]+$/);
        operationIds.add(operation.operationId);
        operations += 1;
        expect(
          Object.keys(operation.responses).some((status) => status.startsWith("2")),
          path,
        ).toBe(true);
        expect(operation.responses.default?.content?.["application/json"]?.schema, path).toEqual({
          $ref: "#/components/schemas/Error",
        });
        // What is posted to an inbound hook is signed.
        const keyed = path.startsWith("/v1/admin/") ? [{ adminKey: [] }] : [{ apiKey: [] }];
        expect(operation.security, path).toEqual(/^\/(v1\/inbound|health)\//.test(path) ? [] : keyed);
      }
    }
    expect(operationIds.size).toBe(operations);
  });

  test("every field and parameter is described, in more than its name, and no default makes one required", async () => {
    const undescribed: string[] = [];
    let fields = 0;
    const visit = (value: unknown, path: string) => {
      if (typeof value !== "object" || value === null) return;
      const { properties, in: place, name, ...rest } = value as Record<string, unknown>;
      const parts = Object.entries({
        ...(properties as object),
        ...(typeof place === "string" && { [`${name}`]: rest }),
      });
      for (const [field, part] of parts) {
        fields += 1;
        const { description, schema, ...keywords } = part as Record<string, unknown>;
        expect({ ...keywords, ...(schema as object) }, `${path}.${field}`).not.toHaveProperty("default");
        const letters = `${description ?? ""}`.toLowerCase().replace(/[^a-z]/g, "");
        if (letters.length < 6 || letters === field.replace(/_/g, ""))
          undescribed.push(`${path}.${field}: ${description}`);
      }
      for (const [key, part] of Object.entries(value)) visit(part, `${path}.${key}`);
    };
    visit(await openApiDocument(), "");
    expect(undescribed).toEqual([]);
    expect(fields).toBeGreaterThan(400);
  });

  test("every schema is one, and every reference leads somewhere", async () => {
    const document = await openApiDocument();
    const ajv = new Ajv2020({ strict: false, formats: { uri: true } });
    const text = JSON.stringify(document);
    for (const schema of Object.values(document.components.schemas)) {
      expect(ajv.validateSchema(schema), ajv.errorsText()).toBe(true);
    }
    for (const [, name] of text.matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
      expect(document.components.schemas).toHaveProperty(name ?? "");
    }
    for (const [reference] of text.matchAll(/"\$ref":"[^"]*"/g)) expect(reference).toContain("#/components/schemas/");
  });

  test("what is asked for is described as it is taken", async () => {
    const document = await openApiDocument();
    const { key } = await newTenant();
    const body = document.paths["/v1/datasets"]?.post?.requestBody?.content["application/json"]?.schema;
    expect(body).toMatchObject({ additionalProperties: false, required: ["name", "task", "modality"] });
    const examples = document.paths["/v1/datasets/{name}/examples"]?.post?.requestBody?.content ?? {};
    expect(Object.keys(examples).toSorted()).toEqual([
      "application/json",
      "application/x-ndjson",
      "application/yaml",
      "text/csv",
      "text/tab-separated-values",
    ]);
    expect((await call("POST", "/v1/datasets", key, { name: "a", task: "single_label" })).status).toBe(400);
  });

  test("what may be null is described so", async () => {
    const document = await openApiDocument();
    const ajv = new Ajv2020({ strict: false });
    ajv.addSchema({ $id: "api", components: document.components });
    const isNewHead = ajv.compile({ $ref: "api#/components/schemas/NewHead" });
    for (const [class_weight, fits] of [
      [null, true],
      ["balanced", true],
      ["other", false],
    ]) {
      expect(isNewHead({ name: "h", dataset: "d", hyperparameters: { class_weight } }), `${class_weight}`).toBe(fits);
    }
  });

  test("limits are in the document as they hold", async () => {
    const { LabelledExample } = (await openApiDocument()).components.schemas;
    expect(LabelledExample?.properties).toMatchObject({
      label: { minLength: 1, maxLength: limits.label_characters },
      labels: { maxItems: limits.labels_per_example, items: { maxLength: limits.label_characters } },
      embedding: { maxItems: limits.embedding_dimensions },
    });
  });

  test("the page to read it in is HTML, with a request id", async () => {
    const response = await SELF.fetch("http://graft.test/docs");
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toContain("text/html");
    expect(response.headers.get("x-request-id")).toMatch(/^req_/);
    expect(await response.text()).toContain("/openapi.json");
  });

  test("the page needs this server alone, and runs nothing but the viewer", async () => {
    const response = await SELF.fetch("http://graft.test/docs");
    const policy = response.headers.get("content-security-policy") ?? "";
    expect(policy).toMatch(/^default-src 'none'; script-src 'self';/);
    const page = await response.text();
    expect(page).not.toMatch(/https?:|<script[^>]*>[^<]/);
    const links = [...page.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, link = ""]) => link);
    expect(links).toEqual(["/docs/viewer.css", "/docs/viewer.js"]);
    for (const [link, type, content] of [
      ["/docs/viewer.css", "text/css", ".swagger-ui"],
      ["/docs/viewer.js", "text/javascript", "SwaggerUIBundle({"],
    ] as const) {
      const asset = await call("GET", link);
      expect([asset.status, asset.headers.get("content-type")]).toEqual([200, `${type}; charset=utf-8`]);
      expect(asset.text).toContain(content);
    }
  });
});
