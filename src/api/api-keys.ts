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
    origins: z
      .array(z.string())
      .nullable()
      .openapi({ description: "the web pages that alone may use it; null for any caller" }),
  })
  .openapi("ApiKey");
export type ApiKey = DeepReadonly<z.output<typeof apiKey>>;

const secret = z.string().optional().openapi({ description: "the key itself: left out where an answer is replayed" });
export const apiKeyWithSecret = apiKey.extend({ secret }).openapi("ApiKeyWithSecret");
export type ApiKeyWithSecret = DeepReadonly<z.output<typeof apiKeyWithSecret>>;

const MAX_ORIGINS = 20;
const origin = z
  .string()
  .max(300)
  .refine((text) => /^https?:/.test(text) && URL.parse(text)?.origin === text, {
    error: "an origin is a scheme, a host and perhaps a port, such as 'https://www.example.com'",
  })
  .openapi({ example: "https://www.example.com" });

export const newApiKey = z
  .strictObject({
    name: z.string().min(1).max(200),
    scopes: z.array(z.enum(scopes)).min(1).max(scopes.length),
    expires_at: requestTime.refine((at) => toMilliseconds(at) > Date.now(), "the time has passed already").optional(),
    origins: z.array(origin).min(1).max(MAX_ORIGINS).optional().openapi({
      description:
        "binds the key to web pages: it has the scope 'predict' alone, and a browser may use it on pages of these origins",
    }),
  })
  .refine(({ origins, scopes }) => origins === undefined || scopes.every((scope) => scope === "predict"), {
    error: "a key with origins has the scope 'predict' alone",
    path: ["scopes"],
  });
export type NewApiKey = DeepReadonly<z.input<typeof newApiKey>>;
