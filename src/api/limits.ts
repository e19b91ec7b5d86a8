import { z } from "@hono/zod-openapi";

export const limitList = z
  .object({
    object: z.literal("limits"),
    id: z.string(),
    limits: z.record(z.string(), z.object({ limit: z.number(), used: z.number().optional() })),
  })
  .openapi("Limits");
