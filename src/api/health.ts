import { z } from "@hono/zod-openapi";

export const healthStatus = z.object({ status: z.enum(["ok", "unavailable"]) });
