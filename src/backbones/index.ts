/** The table of shared backbones: the built-in ones, and the remote ones that the variable BACKBONES configures. */
import { createHash } from "node:crypto";
import { z } from "zod";
import "../api/messages.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import type { Backbone } from "./backbone.ts";
import { hashText } from "./hash-text.ts";
import { openAiBackbone } from "./openai.ts";
import { type AiBinding, MAX_BATCH_SIZE, workersAiBackbone } from "./workers-ai.ts";

/** In place of a backbone's id: the examples decide. No backbone has this id. */
export const AUTO = "auto";

const nameSchema = z
  .string()
  .regex(/^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$/, "must be 1 to 64 letters, digits, '.', '_' or '-'");

const commonFields = {
  id: nameSchema,
  model: z.string().min(1),
  dimensions: z.int().min(1).max(8192),
  revision: nameSchema.optional(),
  license: z.string().min(1).default("unknown"),
  parameters: z.int().min(0).default(0),
  timeout_ms: z.int().min(100).max(120_000).default(20_000),
  retries: z.int().min(0).max(10).default(3),
};

const entrySchema = z.discriminatedUnion("kind", [
  z.strictObject({
    kind: z.literal("openai"),
    ...commonFields,
    base_url: z
      .string()
      .refine(isSafeUrl, "must be an https: URL (http: for this machine) without user, query or fragment"),
    secret: z
      .string()
      .regex(/^[A-Z][A-Z0-9_]*$/, "must be the name of a secret such as OPENAI_API_KEY, never a key itself")
      .optional(),
    send_dimensions: z.boolean().default(false),
    encoding_format: z.enum(["float", "base64"]).default("float"),
    batch_size: z.int().min(1).max(2048).default(128),
  }),
  z.strictObject({
    kind: z.literal("workers_ai"),
    ...commonFields,
    pooling: z.enum(["mean", "cls"]).optional(),
    batch_size: z.int().min(1).max(MAX_BATCH_SIZE).default(MAX_BATCH_SIZE),
  }),
]);

type Entry = z.infer<typeof entrySchema>;

/**
 * The shared backbones by id: the `bundled` ones, as this platform loads them (workerd.ts, node.ts), hash-text-1, and those
 * of `configuration` (JSON, see docs/backbones.md). `getSecret` returns a secret by its name. A failure names the invalid
 * entry and field, but no value.
 */
export function makeBackbones(
  bundled: readonly Backbone[],
  configuration: string | undefined,
  getSecret: (name: string) => string | undefined,
  ai: AiBinding | undefined,
): Result<ReadonlyMap<string, Backbone>> {
  const table = new Map([...bundled, hashText].map((backbone) => [backbone.id, backbone]));
  const entries = parseEntries(configuration);
  if (!entries.ok) return entries;
  for (const [i, entry] of entries.value.entries()) {
    if (table.has(entry.id) || entry.id === AUTO) return invalidConfiguration([i, "id"], `'${entry.id}' is taken`);
    const { id, license, parameters, model, dimensions } = entry;
    const identity = { id, revision: entry.revision ?? revisionOf(entry), license, parameters };
    const callOptions = {
      model,
      dimensions,
      batchSize: entry.batch_size,
      timeout: entry.timeout_ms,
      retries: entry.retries,
    };
    if (entry.kind === "workers_ai") {
      if (ai === undefined)
        return invalidConfiguration([i, "kind"], "workers_ai needs the binding AI, which this Worker does not have");
      table.set(id, workersAiBackbone(identity, { ...callOptions, pooling: entry.pooling }, ai));
      continue;
    }
    const key = entry.secret === undefined ? undefined : getSecret(entry.secret);
    if (entry.secret !== undefined && !key)
      return invalidConfiguration([i, "secret"], `the secret ${entry.secret} is not set`);
    const baseUrl = entry.base_url.replace(/\/+$/, "");
    const format = { sendDimensions: entry.send_dimensions, encodingFormat: entry.encoding_format };
    table.set(id, openAiBackbone(identity, { ...callOptions, ...format, baseUrl, key }));
  }
  return ok(table);
}

/** The origins of the remote backbones in a valid `configuration`; of an invalid one none. */
export function listBackboneOrigins(configuration: string | undefined): string[] {
  const entries = parseEntries(configuration);
  if (!entries.ok) return [];
  return entries.value.flatMap((entry) => (entry.kind === "openai" ? [new URL(entry.base_url).origin] : []));
}

function parseEntries(configuration: string | undefined): Result<Entry[]> {
  if (configuration === undefined || configuration.trim() === "") return ok([]);
  let json: unknown;
  try {
    json = JSON.parse(configuration);
  } catch {
    return invalidConfiguration([], "is not JSON");
  }
  const parsed = z.array(entrySchema).safeParse(json);
  if (parsed.success) return ok(parsed.data);
  const issue = parsed.error.issues[0];
  return invalidConfiguration(issue?.path ?? [], issue?.message ?? "is wrong");
}

function invalidConfiguration(path: readonly PropertyKey[], what: string) {
  const where = path.map((step) => (typeof step === "number" ? `[${step}]` : `.${String(step)}`)).join("");
  return fail("internal_error", `BACKBONES${where}: ${what}`);
}

/** A key is sent only by HTTPS, or only to this machine. */
function isSafeUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, hostname, username, password, search, hash } = new URL(text);
  const loopback = hostname === "localhost" || hostname === "[::1]" || /^127(\.\d+){3}$/.test(hostname);
  return (protocol === "https:" || (protocol === "http:" && loopback)) && username + password + search + hash === "";
}

/** A hash of what determines a remote model's embeddings. The URL is not a part of it: the same model may move. */
function revisionOf(entry: Entry): string {
  const pooling = entry.kind === "workers_ai" ? (entry.pooling ?? null) : null;
  const identity = JSON.stringify([entry.kind, entry.model, entry.dimensions, pooling]);
  return createHash("sha256").update(identity).digest("hex").slice(0, 12);
}
