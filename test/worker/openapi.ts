/**
 * Checks answers against /openapi.json, so that the document and the service cannot drift apart: a status that is not
 * documented, a field that is missing and a field that is not in the schema all fail. Clients must allow further
 * fields, so the document's schemas are open; here they are closed.
 */
import { SELF } from "cloudflare:test";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";

type Schema = { [key: string]: unknown };
interface Operation {
  readonly responses: Record<string, { content?: Record<string, { schema: Schema }> }>;
  readonly requestBody?: { content: Record<string, { schema: Schema }> };
  readonly security?: readonly unknown[];
  readonly summary?: string;
  readonly description?: string;
  readonly operationId?: string;
}
export interface OpenApiDocument {
  readonly openapi: string;
  readonly paths: Record<string, Record<string, Operation>>;
  readonly components: { schemas: Record<string, Schema>; securitySchemes: Record<string, unknown> };
}

let documentPromise: Promise<OpenApiDocument> | undefined;

export function openApiDocument(): Promise<OpenApiDocument> {
  documentPromise ??= SELF.fetch("http://graft.test/openapi.json").then((response) => response.json<OpenApiDocument>());
  return documentPromise;
}

/** The schema with its references resolved, `allOf` merged, and every object closed to fields that it does not name. */
function closeSchema(document: OpenApiDocument, schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map((item) => closeSchema(document, item));
  if (typeof schema !== "object" || schema === null) return schema;
  const { $ref, allOf, ...ownFields } = schema as { $ref?: string; allOf?: unknown[] } & Schema;
  if ($ref !== undefined) {
    return closeSchema(document, document.components.schemas[$ref.replace("#/components/schemas/", "")]);
  }
  const parts = [ownFields, ...(allOf ?? [])].map((part) =>
    part === ownFields ? ownFields : (closeSchema(document, part) as Schema),
  );
  const merged: Schema = {};
  for (const part of parts) {
    const properties = { ...(merged.properties as Schema), ...(part.properties as Schema) };
    const required = [...((merged.required as string[]) ?? []), ...((part.required as string[]) ?? [])];
    Object.assign(merged, part, { properties, required: [...new Set(required)] });
  }
  const { properties, required, ...otherFields } = merged;
  const fields = Object.entries(properties as Schema).map(([name, field]) => [name, closeSchema(document, field)]);
  const others = Object.entries(otherFields).map(([name, value]) => [
    name,
    name === "enum" ? value : closeSchema(document, value),
  ]);
  return {
    ...Object.fromEntries(others),
    ...(fields.length === 0
      ? {}
      : {
          properties: Object.fromEntries(fields),
          required,
          additionalProperties: otherFields.additionalProperties ?? false,
        }),
  };
}

const ajv = new Ajv2020({ allErrors: true, strict: false });
// ajv-formats is CommonJS: which of the two the import gives depends on the bundler.
const formats = (addFormats as unknown as { default?: typeof addFormats.default }).default ?? addFormats;
(formats as unknown as (ajv: Ajv2020) => void)(ajv);
const validators = new Map<string, ValidateFunction>();

function findTemplate(document: OpenApiDocument, pathname: string): string | undefined {
  const parts = pathname.split("/");
  const templates = Object.keys(document.paths).filter((template) => {
    const names = template.split("/");
    return names.length === parts.length && names.every((name, i) => name.startsWith("{") || name === parts[i]);
  });
  // A path without parameters goes before one with them.
  const parameters = (template: string) => template.split("{").length;
  return templates.sort((a, b) => parameters(a) - parameters(b))[0];
}

/** Throws where an answer is not as the document says. Paths that it does not name may answer errors alone. */
export async function validateResponse(method: string, path: string, response: Response, json: unknown): Promise<void> {
  const document = await openApiDocument();
  // A request that reads may end in a slash.
  const pathname = new URL(`http://graft.test${path}`).pathname.replace(method === "GET" ? /(?<=.)\/$/ : /$^/, "");
  if (response.status < 400 && /^\/(openapi\.json|docs)/.test(pathname)) return;
  // A browser's preflight is no operation.
  if (method === "OPTIONS" && response.status === 204) return;
  const template = findTemplate(document, pathname);
  const operation = template === undefined ? undefined : document.paths[template]?.[method.toLowerCase()];
  const description = `${method} ${template ?? pathname} ${response.status}`;
  const documentedResponse = operation?.responses[response.status] ?? (response.status >= 400 ? "error" : undefined);
  if (documentedResponse === undefined) throw new Error(`${description}: this status is not in /openapi.json`);
  const type = response.headers.get("content-type")?.split(";")[0] ?? "";
  const schema =
    documentedResponse === "error" ? document.components.schemas.Error : documentedResponse.content?.[type]?.schema;
  if (schema === undefined) throw new Error(`${description}: the content type '${type}' is not in /openapi.json`);
  if (type !== "application/json") return;
  let validate = validators.get(description);
  if (validate === undefined) {
    validate = ajv.compile(closeSchema(document, schema) as Schema);
    validators.set(description, validate);
  }
  if (!validate(json)) {
    throw new Error(
      `${description} is not as /openapi.json says: ${JSON.stringify(validate.errors)}\n${JSON.stringify(json)}`,
    );
  }
}
