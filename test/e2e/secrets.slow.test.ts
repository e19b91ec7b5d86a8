/** The secrets of webhooks and inbound hooks in the files of a real server, and through a rotation of its key. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, inject, test } from "vitest";
import { createClient } from "../../src/sdk/client.ts";
import { type Server, serve } from "../../src/server/runtime.ts";
import { waitFor } from "./processes.ts";
import { isSigned, startReceiver } from "./receivers.ts";

const ADMIN_KEY = "operator-key-of-the-tests";
const stateDir = mkdtempSync(join(tmpdir(), "graft-secrets-"));
const receiver = await startReceiver();
afterAll(async () => {
  await receiver.close();
  rmSync(stateDir, { recursive: true, force: true, maxRetries: 3 });
});

const start = (variables: Record<string, string> = {}): Promise<Server> =>
  serve(inject("bundles").deployed, {
    port: 0,
    stateDir,
    adminKey: ADMIN_KEY,
    log: () => undefined,
    variables: { WEBHOOK_ORIGINS: receiver.url, ...variables },
  });

/** The files of the state folder, write-ahead logs included, that hold one of the texts. */
function filesWith(...texts: string[]): string[] {
  const files = readdirSync(stateDir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return files
    .map(({ parentPath, name }) => join(parentPath, name))
    .filter((file) => texts.some((text) => readFileSync(file).includes(text)));
}

/** Has a test event sent, and answers whether it was signed with the secret. */
async function sendSigned(url: string, key: string, endpoint: string, secret: string): Promise<boolean> {
  const count = receiver.arrivals.length;
  await createClient({ baseUrl: url, key }).webhookEndpoints.test(endpoint);
  const arrival = await waitFor(async () => receiver.arrivals[count] ?? false, "the event arrives");
  return isSigned(arrival, secret);
}

test("no file holds a secret, and secrets outlast two rotations of the server key", async () => {
  let server = await start();
  const operator = () => createClient({ baseUrl: server.url, key: ADMIN_KEY });
  const { key } = await operator().tenants.create({ id: "acme" });
  const graft = createClient({ baseUrl: server.url, key: key.secret });
  const endpoint = await graft.webhookEndpoints.create({ url: receiver.url, events: ["*"] });
  const secret = endpoint.secret ?? "";
  await graft.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
  const hook = await graft.inboundHooks.create({
    name: "desk",
    action: "learn",
    dataset: "tickets",
    fields: { text: "/text", label: "/label" },
    verify: { scheme: "hmac_sha256", header: "x-signature", encoding: "hex", secret: "the help desk's own secret" },
  });
  expect(hook.secret).toBe("the help desk's own secret");
  expect(await sendSigned(server.url, key.secret, endpoint.id, secret)).toBe(true);
  expect(filesWith(secret, "the help desk's own secret")).toEqual([]);

  const keyFile = join(stateDir, "server-key");
  for (const round of [1, 2]) {
    await server.stop();
    const previous = readFileSync(keyFile, "utf8").trim();
    writeFileSync(keyFile, `the server key of round ${round}, which is long enough\n`);
    server = await start({ PREVIOUS_SERVER_KEY: previous });
    const fresh = await operator().tenants.createApiKey("acme", { name: `round ${round}`, scopes: ["manage"] });
    expect(await sendSigned(server.url, fresh.secret ?? "", endpoint.id, secret)).toBe(true);
  }
  expect(filesWith(secret, "the help desk's own secret")).toEqual([]);
  await server.stop();
});
