import { z } from "@hono/zod-openapi";
import { errorCodes } from "../core/failure.ts";
import type { DeepReadonly } from "./schema.ts";

const errorTypes = [
  "invalid_request_error",
  "authentication_error",
  "permission_error",
  "not_found_error",
  "conflict_error",
  "rate_limit_error",
  "capacity_error",
  "backend_error",
  "server_error",
] as const;
export type ErrorType = (typeof errorTypes)[number];

export const error = z
  .object({
    error: z.object({
      message: z.string(),
      type: z.enum(errorTypes),
      code: z.enum(errorCodes),
      param: z.string().nullable(),
      request_id: z.string(),
      doc_url: z.string(),
      details: z.record(z.string(), z.unknown()).optional(),
    }),
  })
  .openapi("Error");
export type ErrorBody = DeepReadonly<z.output<typeof error>>["error"];
