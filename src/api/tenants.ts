import { z } from "@hono/zod-openapi";
import { apiKeyWithSecret } from "./api-keys.ts";
import { type DeepReadonly, unixSeconds } from "./schema.ts";

export const TENANT_ID_PATTERN = /^[a-z0-9][a-z0-9-]{1,39}$/;
const tenantId = z.string().regex(TENANT_ID_PATTERN, "a tenant id has 2 to 40 of a-z 0-9 - and does not begin with -");
export const tenantParams = z.object({ id: tenantId });

export const newTenant = z.strictObject({ id: tenantId.optional(), name: z.string().min(1).max(200).optional() });
export type NewTenant = DeepReadonly<z.input<typeof newTenant>>;

export const tenantChange = z
  .strictObject({
    name: z.string().min(1).max(200).optional(),
    status: z.enum(["active", "suspended"]).optional().openapi({
      description: "keys and hooks of a suspended tenant are refused, its jobs and deliveries wait, nothing is deleted",
    }),
  })
  .openapi("TenantChange");
export type TenantChange = DeepReadonly<z.input<typeof tenantChange>>;

export const tenant = z
  .object({
    object: z.literal("tenant"),
    id: z.string(),
    name: z.string().nullable(),
    status: z.enum(["active", "suspended", "deleting", "deleted"]),
    created_at: unixSeconds,
  })
  .openapi("Tenant");
export type Tenant = DeepReadonly<z.output<typeof tenant>>;

export const tenantWithKey = tenant.extend({ key: apiKeyWithSecret });
export type TenantWithKey = DeepReadonly<z.output<typeof tenantWithKey>>;
