import { fail, ok, type Result } from "../core/failure.ts";
import type { Backbone } from "./backbone.ts";
import { hashText } from "./hash-text.ts";

/** The shared backbones by id: hash-text-1. */
export function backbones(
  configuration: string | undefined,
  _secrets: (name: string) => string | undefined,
  _ai: unknown,
): Result<ReadonlyMap<string, Backbone>> {
  if (configuration) return fail("internal_error", "BACKBONES: remote backbones are not supported yet.");
  return ok(new Map([[hashText.id, hashText]]));
}
