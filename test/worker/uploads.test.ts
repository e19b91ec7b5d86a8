/** Uploads in parts: each is in the ledger before its first part, and no part outlasts it by more than a day. */
import { createExecutionContext, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, test, vi } from "vitest";
import { createApp } from "../../src/http/app.ts";
import { PART_BYTES } from "../../src/store/files.ts";
import { artifactKey, fileKey } from "../../src/store/keys.ts";
import type { Upload } from "../../src/store/uploads.ts";
import { runMaintenanceTask } from "../../src/tenant/tasks/maintenance.ts";
import { DAY_MS } from "../../src/tenant/tasks/tasks.ts";
import { getLedger, type Tenant } from "../../src/tenant/tenant.ts";
import { MAX_UPLOADS } from "../../src/tenant/uploads.ts";
import { call, newTenant } from "./api.ts";
import { expectError } from "./assertions.ts";
import { mockBatchEndpoint, newTenantWithJob, waitForJob } from "./fake-batch-endpoint.ts";

mockBatchEndpoint();

const PART = new Uint8Array(5 * 1024 * 1024);
const LINES = ["billing", "login"]
  .map((label) => `${JSON.stringify({ text: "refund me ".repeat(1000), label })}\n`)
  .join("");
const HEADERS = { "content-type": "multipart/form-data; boundary=b" };
const FORM_START =
  '--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n';
const FORM_END = "\r\n--b--\r\n";
const largeFile = FORM_START + LINES.repeat(Math.ceil((1.5 * PART_BYTES) / LINES.length));

/** The tasks that abort uploads, with the milliseconds until they run. */
function listTasks(tenant: string): Promise<{ ref: string; wait: number }[]> {
  return runInDurableObject(env.TENANT.get(env.TENANT.idFromName(tenant)), (_: Tenant, { storage }) =>
    storage.sql
      .exec<{ ref: string; run_at: number }>("SELECT ref, run_at FROM due WHERE kind = 'abort_upload'")
      .toArray()
      .map(({ ref, run_at }) => ({ ref, wait: run_at - Date.now() })),
  );
}

/** Runs the task of an upload, as the alarm does a day after it began. */
function runTask(tenant: string, { key, id }: Upload): Promise<number | null> {
  return runInDurableObject(env.TENANT.get(env.TENANT.idFromName(tenant)), (_: Tenant, { storage }) =>
    runMaintenanceTask(
      { kv: env.KV, bucket: env.BUCKET, storage, tenant, exclusive: (work) => work() },
      { id: 0, kind: "abort_upload", ref: `${key} ${id}`, attempts: 0 },
      Date.now(),
    ),
  );
}

/** An upload that has sent one part when its request is cut off. */
async function interruptUpload(tenant: string, key = fileKey(tenant, "file-1")): Promise<Upload> {
  const { uploadId } = await env.BUCKET.createMultipartUpload(key);
  const upload = { key, id: uploadId };
  expect((await getLedger(env.TENANT, tenant).beginUpload(upload)).ok).toBe(true);
  await env.BUCKET.resumeMultipartUpload(key, uploadId).uploadPart(1, PART);
  return upload;
}

/** Whether R2 still takes parts of an upload, and so holds those that it has. */
function isOpen({ key, id }: Upload): Promise<boolean> {
  const upload = env.BUCKET.resumeMultipartUpload(key, id);
  return upload.uploadPart(2, PART).then(
    () => true,
    (error) => {
      expect(String(error)).toContain("(10024)");
      return false;
    },
  );
}

describe("an upload", () => {
  test("is in the ledger before its first part, and out of it with the file's row", async () => {
    const { id: tenant, key } = await newTenant();
    const tasksAtPart: { ref: string; wait: number }[][] = [];
    const createMultipartUpload = async (name: string) => {
      const upload = await env.BUCKET.createMultipartUpload(name);
      const uploadPart = async (part: number, bytes: Uint8Array) => {
        tasksAtPart.push(await listTasks(tenant));
        return upload.uploadPart(part, bytes);
      };
      return { uploadId: upload.uploadId, uploadPart, complete: upload.complete.bind(upload) };
    };
    const BUCKET = new Proxy(env.BUCKET, {
      get: (bucket, name) => {
        const method = name === "createMultipartUpload" ? createMultipartUpload : Reflect.get(bucket, name);
        return typeof method === "function" ? method.bind(bucket) : method;
      },
    });
    const request = new Request("http://graft.test/v1/files", {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, ...HEADERS },
      body: largeFile + FORM_END,
    });
    const response = await createApp().fetch(request, { ...env, BUCKET }, createExecutionContext());
    expect(response.status).toBe(200);
    const { id } = await response.json<{ id: string }>();
    expect(tasksAtPart.map((tasks) => tasks.map(({ ref }) => ref.split(" ")[0]))).toEqual([
      [fileKey(tenant, id)],
      [fileKey(tenant, id)],
    ]);
    expect(tasksAtPart[0]?.[0]?.wait).toBeGreaterThan(DAY_MS - 60_000);
    expect(await listTasks(tenant)).toEqual([]);
  });

  test("that is refused leaves nothing", async () => {
    const { id: tenant, key } = await newTenant();
    const answer = await call("POST", "/v1/files", key, `${largeFile}no JSON${FORM_END}`, HEADERS);
    expectError(answer, 422, "invalid_training_file", "file");
    expect(await listTasks(tenant)).toEqual([]);
  });

  test("that was cut off is aborted after a day; doing so twice changes nothing", async () => {
    const { id: tenant } = await newTenant();
    const upload = await interruptUpload(tenant);
    expect(await listTasks(tenant)).toHaveLength(1);
    expect(await isOpen(upload)).toBe(true);
    for (const _ of [1, 2]) expect(await runTask(tenant, upload)).toBeNull();
    expect(await isOpen(upload)).toBe(false);
  });

  test("that was completed is not harmed by its task, nor by a second end", async () => {
    const { id: tenant } = await newTenant();
    const ledger = getLedger(env.TENANT, tenant);
    const upload = await interruptUpload(tenant);
    const resumed = env.BUCKET.resumeMultipartUpload(upload.key, upload.id);
    await resumed.complete([await resumed.uploadPart(1, PART)]);
    for (const _ of [1, 2]) await ledger.endUpload(upload);
    await runTask(tenant, upload);
    expect((await env.BUCKET.head(upload.key))?.size).toBe(PART.length);
    expect(await listTasks(tenant)).toEqual([]);
  });

  test("is noted once, though its request says so twice, and not after its end alone", async () => {
    const { id: tenant } = await newTenant();
    const ledger = getLedger(env.TENANT, tenant);
    const [first, second] = [await interruptUpload(tenant), await interruptUpload(tenant)];
    await ledger.beginUpload(first);
    expect(await listTasks(tenant)).toHaveLength(2);
    await ledger.endUpload(first);
    expect((await listTasks(tenant)).map(({ ref }) => ref)).toEqual([`${second.key} ${second.id}`]);
  });

  test("that is one too many is refused", async () => {
    const { id: tenant, key } = await newTenant();
    await runInDurableObject(env.TENANT.get(env.TENANT.idFromName(tenant)), (_: Tenant, { storage }) =>
      storage.sql.exec(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO due (kind, ref, run_at) SELECT 'abort_upload', 'key ' || i, ? FROM n",
        MAX_UPLOADS,
        Date.now() + DAY_MS,
      ),
    );
    const answer = await call("POST", "/v1/files", key, largeFile + FORM_END, HEADERS);
    expectError(answer, 503, "capacity_exceeded", null);
    expect(await listTasks(tenant)).toHaveLength(MAX_UPLOADS);
  });
});

test("the end of a job aborts the uploads of its artifacts, and no others", async () => {
  const { tenant, key, job } = await newTenantWithJob();
  const upload = await interruptUpload(tenant, artifactKey(tenant, job, "a".repeat(64)));
  const otherUpload = await interruptUpload(tenant);
  expect((await call("POST", `/v1/fine_tuning/jobs/${job}/cancel`, key)).status).toBe(200);
  await waitForJob(key, job, "cancelled");
  await vi.waitUntil(async () => (await listTasks(tenant)).length === 1, { timeout: 10_000 });
  expect([await isOpen(upload), await isOpen(otherUpload)]).toEqual([false, true]);
});

test("an upload of an artifact is noted, and forgotten when it is complete", async () => {
  const { tenant, job, attempt } = await newTenantWithJob();
  const sha256 = "c036cbb7553a909f8b8877d4461924307f27ecb66cff928eeeafd569c3887e29";
  const path = `/artifacts/${sha256}/uploads`;
  const begun = await attempt.callback("POST", path, JSON.stringify({ bytes: PART.length }));
  const id = begun.json.upload_id;
  expect((await listTasks(tenant)).map(({ ref }) => ref)).toEqual([`${artifactKey(tenant, job, sha256)} ${id}`]);
  const upload = `${path}/${encodeURIComponent(id)}`;
  const part = (await attempt.callback("PUT", `${upload}/1`, PART)).json;
  const answer = await attempt.callback("POST", upload, JSON.stringify({ parts: [part] }));
  expect(answer.status, answer.text).toBe(200);
  expect(await listTasks(tenant)).toEqual([]);
});

test("deletion of the tenant aborts its uploads, and none can begin after it", async () => {
  const { id: tenant } = await newTenant();
  const uploads = [await interruptUpload(tenant), await interruptUpload(tenant, artifactKey(tenant, "ftjob-1", "b"))];
  const other = await newTenant();
  const otherUpload = await interruptUpload(other.id);
  expect((await call("DELETE", `/v1/admin/tenants/${tenant}`, env.ADMIN_KEY)).status).toBe(202);
  const late = { key: fileKey(tenant, "file-2"), id: "late" };
  expect(await getLedger(env.TENANT, tenant).beginUpload(late)).toMatchObject({ failure: { code: "not_found" } });
  await vi.waitUntil(
    async () => {
      await runDurableObjectAlarm(env.DIRECTORY.get(env.DIRECTORY.idFromName("directory")));
      return (await call("GET", `/v1/admin/tenants/${tenant}`, env.ADMIN_KEY)).json.status === "deleted";
    },
    { timeout: 10_000 },
  );
  for (const upload of uploads) expect(await isOpen(upload)).toBe(false);
  expect(await isOpen(otherUpload)).toBe(true);
});
