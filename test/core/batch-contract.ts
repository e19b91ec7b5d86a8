/**
 * Makes what docs/batch-endpoint.md takes from the code (`npm run batch:schema`): the schemas of all messages, and an
 * example of each exchange, signed by a secret that is on the page.
 */
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { encodeHead } from "../../src/core/codec.ts";
import type { Candidate } from "../../src/core/evaluation/comparison.ts";
import { isHeldOut } from "../../src/core/evaluation/comparison.ts";
import { edgeBudget } from "../../src/core/limits.ts";
import * as protocol from "../../src/jobs/protocol.ts";
import { sign } from "../../src/jobs/sign.ts";
import { makeAttemptToken } from "../../src/jobs/token.ts";
import { linearHead } from "../contract/linear-head.ts";

const docs = join(import.meta.dirname, "..", "..", "docs");
export const schemaFile = join(docs, "batch-endpoint.schema.json");
export const pageFile = join(docs, "batch-endpoint.md");

/** All schemas of the protocol by their titles. */
export const schemas = new Map(
  Object.values(protocol).flatMap((each) =>
    each instanceof z.ZodType ? [[z.globalRegistry.get(each)?.title ?? "", each] as const] : [],
  ),
);

/** One JSON Schema document. It is of what a reader accepts: fields that it does not know are ignored. */
export function makeSchema(): object {
  const registry = z.registry<{ id: string }>();
  for (const [id, schema] of schemas) registry.add(schema, { id });
  const jsonSchema = z.toJSONSchema(registry, {
    target: "draft-2020-12",
    io: "input",
    uri: (id) => `#/$defs/${id}`,
    override: ({ jsonSchema }) => {
      // What a number of JSON holds anyway.
      if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
      if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
    },
  });
  const definitions = Object.entries(jsonSchema.schemas)
    .map(([id, { $schema: _, $id: __, ...schema }]) => [id, schema] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "What a Worker of Graft and its batch endpoint say to each other",
    $comment: "Made from src/jobs/protocol.ts by `npm run batch:schema`.",
    $defs: Object.fromEntries(definitions),
  };
}

const sha256 = (text: string) => createHash("sha256").update(text);
export const secret = `whsec_${sha256("the secret of an example").digest("base64")}`;
export const serverKey = "the server key of an example";
/** 2026-01-01, in seconds. */
export const startedAt = 1_767_225_600;

const id = `ftjob-${sha256("the job of an example").digest("hex").slice(0, 32)}`;
const attempt = 1;
const attemptPath = `/v1/jobs/${id}/attempts/${attempt}`;
const callbackPath = `/internal/batch/jobs/${id}/attempts/${attempt}`;
const token = makeAttemptToken(serverKey, { tenant: "acme", job: id, attempt });

export const head = linearHead({
  task: "single_label",
  labels: ["invoice", "parcel"],
  dimensions: 2,
  weights: Float32Array.of(1.5, -1.5, -1.5, 1.5),
  bias: Float32Array.of(0.25, -0.25),
});
const headBytes = encodeHead(head);
const artifact = { sha256: createHash("sha256").update(headBytes).digest("hex"), bytes: headBytes.length };

const rows = Array.from({ length: 5 }, (_, i) => {
  const group = sha256(`example ${i}`).digest().subarray(0, 16);
  const embedding = Buffer.from(Float32Array.of(i % 2, 1 - (i % 2)).buffer).toString("base64");
  const target = i % 2 === 0 ? "parcel" : "invoice";
  return { embedding, target, group: group.toString("hex"), held_out: isHeldOut(group) };
});

const submission = {
  object: "batch.job",
  id,
  attempt,
  tenant: "acme",
  token,
  created_at: startedAt,
  task: "single_label",
  modality: "embedding",
  backbone: null,
  dimensions: 2,
  out_of_scope_label: null,
  trainable: "head",
  hyperparameters: { l2: "auto", class_weight: null, lexical: "auto", seed: 0 },
  evaluation: { method: "auto" },
  comparison: "cross_fit",
  edge_budget: edgeBudget,
  checkpoint: null,
  heartbeat_seconds: 15,
} satisfies protocol.Submission;

const comparison = {
  test_examples: rows.length,
  head_accuracy: 1,
  fine_tuned_accuracy: 1,
  only_head: 0,
  only_fine_tuned: 0,
};
const manifest = {
  artifact,
  candidate: "head",
  dataset: { revision: 7, examples: rows.length },
  training: {
    examples: rows.length,
    iterations: 9,
    converged: true,
    objective: 0.71,
    l2: 1,
    temperature: 1,
    lexical: false,
    milliseconds: 420,
  },
  evaluation: null,
} satisfies protocol.Manifest;
const progress = { step: 0, message: `Read ${rows.length} examples.`, metrics: { examples: rows.length } };

/** The exchanges of a short job as Markdown: blocks of HTTP, each with the schema of its body behind `http`. */
export function makeExample(): string {
  let messageCount = 0;
  const block = (schema: string, lines: readonly string[], body: string) =>
    [
      "```http",
      schema === "" ? "" : ` ${schema}`,
      "\n",
      ...lines.map((line) => `${line}\n`),
      "\n",
      body,
      "\n```\n",
    ].join("");
  const headers = (headerValues: Readonly<Record<string, string>>) =>
    Object.entries(headerValues).map(([name, value]) => `${name}: ${value}`);
  const json = { "content-type": "application/json" };
  const bearer = { authorization: `Bearer ${token}` };
  const signedRequest = (
    schema: string,
    request: string,
    content: object,
    extraHeaders: Readonly<Record<string, string>> = {},
  ) => {
    const body = JSON.stringify(content);
    const message = `msg_${sha256(`message ${messageCount}`).digest("hex").slice(0, 32)}`;
    const signature = sign(secret, body, message, (startedAt + 10 * messageCount++) * 1000);
    return block(schema, [request, ...headers({ ...json, ...extraHeaders, ...signature })], body);
  };
  const response = (schema: string, status: number, content: object) =>
    block(schema, [`HTTP/1.1 ${status}`, ...headers(json)], JSON.stringify(content));
  const messageRequest = (message: protocol.Message) =>
    signedRequest("Message", `POST ${callbackPath}/messages HTTP/1.1`, { id, attempt, ...message }, bearer);
  const directive = (directive: protocol.Directive["directive"], refit: Candidate | null) =>
    response("Directive", 200, { object: "batch.directive", directive, refit });
  const lines = [...rows, { end: true, rows: rows.length, revision: 7 }].map((line) => JSON.stringify(line));
  const acknowledge = (status: string) =>
    response("Acknowledgement", 202, { object: "batch.attempt", id, attempt, status });

  const parts = [
    `The secret is \`${secret}\`, the time 2026-01-01 00:00 UTC (${startedAt}).`,
    "The Worker submits the attempt, and the endpoint accepts it:",
    signedRequest("Submission", `PUT ${attemptPath} HTTP/1.1`, submission),
    acknowledge("running"),
    "The attempt fetches the examples:",
    `\`\`\`http\nGET ${callbackPath}/data HTTP/1.1\nauthorization: Bearer ${token}\n\`\`\`\n`,
    block("DataLine", ["HTTP/1.1 200", "content-type: application/x-ndjson"], lines.join("\n")),
    "It reports its progress from time to time:",
    messageRequest({ type: "progress", ...progress }),
    directive("continue", null),
    "Both candidates are trained without each fold, and compared on its examples:",
    messageRequest({ type: "evaluated", judgement: comparison }),
    directive("continue", "head"),
    "The winner is trained on all examples, and its bytes are uploaded:",
    `\`\`\`http\nPUT ${callbackPath}/artifacts/${artifact.sha256} HTTP/1.1\nauthorization: Bearer ${token}\ncontent-type: application/octet-stream\ncontent-length: ${artifact.bytes}\n\`\`\`\n`,
    `The body is these ${artifact.bytes} bytes, in hexadecimal, 32 a line:`,
    `\`\`\`hex\n${hexLines(headBytes)}\n\`\`\`\n`,
    response("Artifact", 200, artifact),
    "The last message names the uploaded bytes, and the job has succeeded:",
    messageRequest({ type: "finished", manifest }),
    directive("end", "head"),
    "If the customer had paused the job meanwhile, the answer to the next message would have said so, and the Worker would have called:",
    signedRequest("Stop", `POST ${attemptPath}/stop HTTP/1.1`, { object: "batch.stop", id, attempt, action: "pause" }),
    acknowledge("stopping"),
  ];
  return parts.map((part) => (part.endsWith("\n") ? part : `${part}\n`)).join("\n");
}

function hexLines(bytes: Uint8Array): string {
  return (
    Buffer.from(bytes)
      .toString("hex")
      .match(/.{1,64}/g) ?? []
  ).join("\n");
}

export const markers = ["<!-- made by npm run batch:schema -->\n", "<!-- end -->\n"] as const;

if (import.meta.main) {
  writeFileSync(schemaFile, `${JSON.stringify(makeSchema(), null, 2)}\n`);
  const page = readFileSync(pageFile, "utf8");
  const [from, to] = [page.indexOf(markers[0]) + markers[0].length, page.indexOf(markers[1])];
  writeFileSync(pageFile, `${page.slice(0, from)}\n${makeExample()}\n${page.slice(to)}`);
}
