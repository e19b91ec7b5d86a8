import type { InboundHook, InboundHookWithSecret, NewInboundHook } from "../api/inbound-hooks.ts";
import type { DeletedObject, List, PageQuery } from "../api/lists.ts";
import type {
  NewWebhookEndpoint,
  WebhookDelivery,
  WebhookDeliveryWithAttempts,
  WebhookEndpoint,
  WebhookEndpointChange,
  WebhookEndpointWithSecret,
  WebhookRedelivery,
} from "../api/webhooks.ts";
import { type RequestOptions, resourcePath, type Transport } from "./transport.ts";

/** URLs to which other systems post their own JSON, to have it classified or learnt. */
export function inboundHookCalls({ get, post, delete: remove }: Transport) {
  return {
    create: (hook: NewInboundHook, options?: RequestOptions) =>
      post<InboundHookWithSecret>("/v1/inbound_hooks", hook, options),
    list: (page: PageQuery = {}) => get<List<InboundHook>>("/v1/inbound_hooks", { ...page }),
    get: (id: string) => get<InboundHook>(resourcePath("inbound_hooks", id)),
    delete: (id: string) => remove<DeletedObject>(resourcePath("inbound_hooks", id)),
  };
}

const endpointPath = (id: string) => resourcePath("webhook_endpoints", id);

/** Where events are sent. docs/webhooks.md says how to receive them. */
export function webhookEndpointCalls({ get, post, patch, delete: remove }: Transport) {
  return {
    create: (endpoint: NewWebhookEndpoint, options?: RequestOptions) =>
      post<WebhookEndpointWithSecret>("/v1/webhook_endpoints", endpoint, options),
    list: (page: PageQuery = {}) => get<List<WebhookEndpoint>>("/v1/webhook_endpoints", { ...page }),
    get: (id: string) => get<WebhookEndpoint>(endpointPath(id)),
    update: (id: string, change: WebhookEndpointChange) => patch<WebhookEndpoint>(endpointPath(id), change),
    delete: (id: string) => remove<DeletedObject>(endpointPath(id)),
    /** Makes a new secret. For 24 hours messages are signed with the previous one as well. */
    rotateSecret: (id: string, options?: RequestOptions) =>
      post<WebhookEndpointWithSecret>(`${endpointPath(id)}/rotate_secret`, {}, options),
    /** Sends the event `webhook.test` to this endpoint alone. */
    test: (id: string, options?: RequestOptions) => post<WebhookDelivery>(`${endpointPath(id)}/test`, {}, options),
    /** Sends again the failed events since a time in Unix seconds. */
    redeliver: (id: string, since: number, options?: RequestOptions) =>
      post<WebhookRedelivery>(`${endpointPath(id)}/redeliver`, { since }, options),
  };
}

export function webhookDeliveryCalls({ get, post }: Transport) {
  return {
    list: (query: PageQuery & { readonly endpoint?: string; readonly status?: WebhookDelivery["status"] } = {}) =>
      get<List<WebhookDelivery>>("/v1/webhook_deliveries", { ...query }),
    get: (id: string) => get<WebhookDeliveryWithAttempts>(resourcePath("webhook_deliveries", id)),
    /** Sends an event again, under the same id, whatever the delivery's status. */
    redeliver: (id: string, options?: RequestOptions) =>
      post<WebhookDelivery>(`${resourcePath("webhook_deliveries", id)}/redeliver`, {}, options),
  };
}
