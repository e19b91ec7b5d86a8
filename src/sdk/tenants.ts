import type { ApiKeyWithSecret, NewApiKey } from "../api/api-keys.ts";
import type { List, PageQuery } from "../api/lists.ts";
import type { NewTenant, Tenant, TenantChange, TenantWithKey } from "../api/tenants.ts";
import { type RequestOptions, resourcePath, type Transport } from "./transport.ts";

/** A tenant with its first key. Only a replayed response lacks the secret. */
export type CreatedTenant = TenantWithKey & { readonly key: { readonly secret: string } };

/** For the operator's key alone. */
export function tenantCalls({ get, post, patch, delete: remove }: Transport) {
  return {
    create: (tenant: NewTenant = {}, options?: RequestOptions) =>
      post<CreatedTenant>("/v1/admin/tenants", tenant, options),
    list: (page: PageQuery = {}) => get<List<Tenant>>("/v1/admin/tenants", { ...page }),
    get: (id: string) => get<Tenant>(resourcePath("admin/tenants", id)),
    update: (id: string, change: TenantChange) => patch<Tenant>(resourcePath("admin/tenants", id), change),
    /** Begins the deletion of everything that the tenant has. */
    delete: (id: string) => remove<Tenant>(resourcePath("admin/tenants", id)),
    createApiKey: (id: string, apiKey: NewApiKey, options?: RequestOptions) =>
      post<ApiKeyWithSecret>(`${resourcePath("admin/tenants", id)}/api_keys`, apiKey, options),
  };
}
