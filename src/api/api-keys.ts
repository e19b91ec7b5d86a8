import { z } from "@hono/zod-openapi";
import { toMilliseconds } from "../lib/time.ts";
import { type DeepReadonly, requestTime, unixSeconds } from "./schema.ts";

export const scopes = ["predict", "train", "manage"] as const;
export type Scope = (typeof scopes)[number];

export const apiKey = z
  .object({
    object: z.literal("api_key"),
    id: z.string(),
    name: z.string(),
    scopes: z.array(z.enum(scopes)),
    created_at: unixSeconds,
    expires_at: unixSeconds.nullable(),
  })
  .openapi("ApiKey");
export type ApiKey = DeepReadonly<z.output<typeof apiKey>>;

const secret = z.string().optional().openapi({ description: "the key itself: left out where an answer is replayed" });
export const apiKeyWithSecret = apiKey.extend({ secret }).openapi("ApiKeyWithSecret");
export type ApiKeyWithSecret = DeepReadonly<z.output<typeof apiKeyWithSecret>>;

export const newApiKey = z.strictObject({
  name: z.string().min(1).max(200),
  scopes: z.array(z.enum(scopes)).min(1).max(scopes.length),
  expires_at: requestTime.refine((at) => toMilliseconds(at) > Date.now(), "the time has passed already").optional(),
});
export type NewApiKey = DeepReadonly<z.input<typeof newApiKey>>;
