import { z } from "@hono/zod-openapi";

export const healthStatus = z.object({
  status: z.enum(["ok", "unavailable"]),
  reason: z.enum(["storage_full"]).optional().openapi({ description: "why it is not ready, where a client can know" }),
});
