/** Reads the fields of an example from another system's JSON, by a hook's JSON Pointers (RFC 6901). */
import jsonpointer from "jsonpointer";
import type { HookFields } from "../api/inbound-hooks.ts";
import { fail, ok, type Result } from "../core/failure.ts";

type Scalar = string | number | boolean;

const isScalar = (value: unknown): value is Scalar => ["string", "number", "boolean"].includes(typeof value);

/** The fields of an example or an input. Numbers and booleans in the place of texts and labels become strings. */
export interface HookValues {
  readonly text: string;
  readonly id?: string;
  readonly label?: string;
  readonly labels?: readonly string[];
  readonly value?: number;
}

/** Fails if a needed field is missing from the body or has the wrong type. An id may be missing. */
export function readFields(fields: HookFields, body: unknown): Result<HookValues> {
  if (typeof body !== "object" || body === null)
    return fail("invalid_payload", "The body is no JSON object, so the hook's fields lead nowhere.");
  const getAt = (pointer: string): unknown => jsonpointer.get(body, pointer);
  const text = readText(fields.text, getAt);
  if (!text.ok) return text;
  const id = fields.id === undefined ? undefined : getAt(fields.id);
  const values: HookValues = { text: text.value, ...(isScalar(id) && id !== "" ? { id: String(id) } : {}) };
  if (fields.label !== undefined) {
    const label = getAt(fields.label);
    return isScalar(label)
      ? ok({ ...values, label: String(label) })
      : pointerFailure("fields.label", fields.label, "a label");
  }
  if (fields.labels !== undefined) {
    const labels = getAt(fields.labels);
    const list = isScalar(labels) ? [labels] : labels;
    if (Array.isArray(list) && list.every(isScalar)) return ok({ ...values, labels: list.map(String) });
    return pointerFailure("fields.labels", fields.labels, "a list of labels");
  }
  if (fields.value !== undefined) {
    const value = getAt(fields.value);
    const number = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
    if (typeof number === "number" && Number.isFinite(number)) return ok({ ...values, value: number });
    return pointerFailure("fields.value", fields.value, "a number");
  }
  return ok(values);
}

/** Joins the texts at several pointers. Missing and null texts are left out; at least one must be there. */
function readText(pointers: HookFields["text"], getAt: (pointer: string) => unknown): Result<string> {
  if (typeof pointers === "string") {
    const text = getAt(pointers);
    return isScalar(text) ? ok(String(text)) : pointerFailure("fields.text", pointers, "a text");
  }
  const parts: string[] = [];
  for (const [index, pointer] of pointers.entries()) {
    const part = getAt(pointer) ?? null;
    if (part === null) continue;
    if (!isScalar(part)) return pointerFailure(`fields.text[${index}]`, pointer, "a text");
    parts.push(String(part));
  }
  return parts.length > 0 ? ok(parts.join("\n")) : pointerFailure("fields.text", pointers.join("' and '"), "a text");
}

function pointerFailure(param: string, pointer: string, expected: string) {
  return fail("invalid_payload", `There is not ${expected} at '${pointer}' of the body, where '${param}' points.`, {
    param,
  });
}
