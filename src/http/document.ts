/** The OpenAPI document, made of the routes' schemas. */
import { fieldDescriptions } from "../api/descriptions.ts";
import type { App } from "./context.ts";

const description = `Train, evaluate, calibrate and serve small classifiers (heads) on frozen embeddings, one set for each of your customers.
Every error has a code from a closed list, with a page on each at /docs/errors.`;

export type ApiDocument = ReturnType<App["getOpenAPI31Document"]>;

export function buildDocument(app: App): ApiDocument {
  const document = app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: "Graft",
      version: "1",
      description,
      license: { name: "Apache-2.0", url: "https://www.apache.org/licenses/LICENSE-2.0" },
    },
  });
  // The import reads JSON as a stream, so its route declares no JSON body. The document has it all the same.
  const body = document.paths?.["/v1/datasets/{name}/examples"]?.post?.requestBody;
  if (body && "content" in body) {
    const examples = { type: "array" as const, items: { $ref: "#/components/schemas/LabelledExample" } };
    body.content["application/json"] = {
      schema: { type: "object", properties: { examples }, required: ["examples"], additionalProperties: false },
    };
  }
  completeSchemas(document);
  return document;
}

type Node = { [key: string]: unknown };

/** Describes every field, parameter and default of a part of the document. Changes it. */
function completeSchemas(node: unknown): void {
  if (typeof node !== "object" || node === null) return;
  const { properties, in: place, name } = node as Node;
  if (typeof properties === "object") Object.entries(properties as Node).forEach(describe);
  if (typeof place === "string" && typeof name === "string") describe([name, node]);
  Object.values(node).forEach(completeSchemas);
}

/** A default is in words: generated clients take the keyword to mean that the field is always there, in requests as well. */
function describe([name, part]: [string, unknown]): void {
  const field = part as Node;
  const schema = (field.schema ?? field) as Node;
  const words = field.description ?? schema.description ?? fieldDescriptions[name];
  const byDefault = describeDefault(schema.default);
  delete schema.default;
  if (words !== undefined) field.description = `${words}${byDefault}`;
}

function describeDefault(value: unknown): string {
  if (value === undefined || value === "" || typeof value === "object")
    return value === null ? ". By default null" : "";
  return `. By default ${typeof value === "string" ? `'${value}'` : value}`;
}
