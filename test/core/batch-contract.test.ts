/** docs/batch-endpoint.md and its schemas say what the code does. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";
import { Webhook } from "standardwebhooks";
import { afterEach, expect, it, vi } from "vitest";
import { decodeHead } from "../../src/core/codec.ts";
import { limits } from "../../src/core/limits.ts";
import { MAX_SINGLE_UPLOAD_BYTES, PART_BYTES } from "../../src/jobs/protocol.ts";
import { verifyAttemptToken } from "../../src/jobs/token.ts";
import * as contract from "./batch-contract.ts";

const page = readFileSync(contract.pageFile, "utf8");
const document = JSON.parse(readFileSync(contract.schemaFile, "utf8")) as { $defs: Record<string, object> };
const ajv = new Ajv2020({ strict: true, allowUnionTypes: true }).addSchema(document, "batch");
const isValid = (name: string, value: unknown) => ajv.validate({ $ref: `batch#/$defs/${name}` }, value);

/** The page's blocks of HTTP, in their order. */
const blocks = [...page.matchAll(/^```http ?(\w*)\n([\s\S]*?)\n```$/gm)].map(([, schema = "", text = ""]) => {
  const [top = "", ...rest] = text.split("\n\n");
  const [first = "", ...lines] = top.split("\n");
  const headers = Object.fromEntries(lines.map((line) => line.split(/: (.*)/).slice(0, 2) as [string, string]));
  return { schema, first, headers, body: rest.join("\n\n") };
});
const signed = blocks.filter(({ headers }) => "webhook-signature" in headers);
const withBody = blocks.flatMap(({ schema, body }) =>
  schema === "" ? [] : body.split("\n").map((line) => ({ schema, value: JSON.parse(line) as Record<string, unknown> })),
);
const uploaded = Buffer.from(/```hex\n([0-9a-f\n]+)```/.exec(page)?.[1]?.replaceAll("\n", "") ?? "", "hex");

afterEach(() => void vi.useRealTimers());

it("the committed schemas are those of the code", () => {
  expect(document).toEqual(contract.makeSchema());
  expect(Object.keys(document.$defs).toSorted()).toEqual([...contract.schemas.keys()].toSorted());
  for (const name of contract.schemas.keys()) expect(page).toContain(`\`${name}\``);
});

it("the page's example is what the script makes", () => {
  const [from, to] = contract.markers.map((mark) => page.indexOf(mark)) as [number, number];
  expect(page.slice(from + contract.markers[0].length, to).trim()).toBe(contract.makeExample().trim());
  expect(blocks.map(({ schema }) => schema)).toEqual(
    "Submission Acknowledgement  DataLine Message Directive Message Directive  Artifact Message Directive Stop Acknowledgement".split(
      " ",
    ),
  );
});

it("every body of the example is as its schema says", () => {
  expect(withBody).toHaveLength(17);
  for (const { schema, value } of withBody) {
    expect(isValid(schema, value), `${schema}: ${ajv.errorsText()}`).toBe(true);
    expect(isValid(schema, { ...value, later: "a field of a newer version" })).toBe(true);
  }
});

it("the schemas refuse what the code refuses", () => {
  for (const { schema, value } of withBody) {
    const read = contract.schemas.get(schema);
    for (const field of Object.keys(value)) {
      const { [field]: _, ...valueWithoutField } = value;
      const invalidValue = { ...value, [field]: { not: "that" } };
      for (const other of [valueWithoutField, invalidValue])
        expect(isValid(schema, other), `${schema}, ${field}`).toBe(read?.safeParse(other).success);
    }
    expect(isValid(schema, {})).toBe(false);
  }
});

it("the example's signatures hold at their time, for their bytes and by their secret alone", () => {
  expect(page).toContain(`The secret is \`${contract.secret}\``);
  expect(signed).toHaveLength(5);
  const ids = new Set(signed.map(({ headers }) => headers["webhook-id"]));
  expect(ids.size).toBe(signed.length);
  const webhook = new Webhook(contract.secret);
  for (const { headers, body } of signed) {
    vi.useFakeTimers({ now: Number(headers["webhook-timestamp"]) * 1000 });
    expect(webhook.verify(body, headers)).toEqual(JSON.parse(body));
    expect(() => webhook.verify(`${body}\n`, headers)).toThrow("No matching signature");
    const other = new Webhook(Buffer.from("another secret, of 32 bytes also").toString("base64"));
    expect(() => other.verify(body, headers)).toThrow("No matching signature");
    vi.setSystemTime(Date.now() + 301_000);
    expect(() => webhook.verify(body, headers)).toThrow("too old");
  }
});

it("the example's token is of its attempt, and its paths too", () => {
  const [submission] = withBody.map(({ value }) => value as { id: string; attempt: number; token: string });
  const { id, attempt, token } = submission ?? { id: "", attempt: 0, token: "" };
  expect(verifyAttemptToken([contract.serverKey], token)).toEqual({ tenant: "acme", job: id, attempt });
  for (const { first, headers } of blocks) {
    if (first.startsWith("HTTP/")) continue;
    expect(first).toContain(`/jobs/${id}/attempts/${attempt}`);
    expect(headers.authorization).toBe(first.includes("/internal/") ? `Bearer ${token}` : undefined);
  }
});

it("the example's head can be read, and is the one that is named", () => {
  expect(decodeHead(uploaded)).toEqual(contract.head);
  const artifact = { sha256: createHash("sha256").update(uploaded).digest("hex"), bytes: uploaded.length };
  const { value } = withBody.find(({ schema }) => schema === "Artifact") ?? {};
  expect(value).toEqual(artifact);
  const finished = withBody.find(({ value }) => value.type === "finished")?.value as { manifest: { artifact: object } };
  expect(finished.manifest.artifact).toEqual(artifact);
  expect(blocks.some(({ first }) => first.includes(`/artifacts/${artifact.sha256} `))).toBe(true);
});

it("the page's limits are those of the code", () => {
  const figures = [MAX_SINGLE_UPLOAD_BYTES, PART_BYTES, limits.artifact_bytes, limits.head_record_bytes];
  figures.push(limits.examples_per_dataset, limits.events_per_job);
  for (const figure of figures) expect(page).toContain(figure.toLocaleString("en"));
  expect(page).toContain(`have not ended | ${limits.active_jobs} |`);
});
