/** Webhook endpoints, to which events are sent, and deliveries: what became of each event at each endpoint. */
import { z } from "@hono/zod-openapi";
import { eventTypes } from "../core/lifecycle/event.ts";
import { pageQuery } from "./lists.ts";
import { type DeepReadonly, requestTime, unixSeconds } from "./schema.ts";

const subscriptions = z
  .array(z.enum([...eventTypes, "*"]))
  .min(1, "name at least one type of event, or '*' for all")
  .max(eventTypes.length + 1)
  .transform((types) => [...new Set(types)]);
const url = z.string().min(1).max(2_048).openapi({ example: "https://example.com/webhooks" });
const description = z.string().max(500).nullable();

export const newWebhookEndpoint = z
  .strictObject({ url, events: subscriptions, description: description.optional() })
  .openapi("NewWebhookEndpoint");
export type NewWebhookEndpoint = DeepReadonly<z.input<typeof newWebhookEndpoint>>;

export const webhookEndpointChange = z
  .strictObject({
    enabled: z.boolean().optional(),
    events: subscriptions.optional(),
    url: url.optional(),
    description: description.optional(),
  })
  .openapi("WebhookEndpointChange");
export type WebhookEndpointChange = DeepReadonly<z.input<typeof webhookEndpointChange>>;

export const webhookEndpoint = z
  .object({
    object: z.literal("webhook_endpoint"),
    id: z.string(),
    url: z.string(),
    events: z.array(z.enum([...eventTypes, "*"])),
    description: z.string().nullable(),
    enabled: z.boolean(),
    /** `request`: a caller disabled it; `gone`: it answered 410; `failing`: it had only failed for days. */
    disabled_reason: z.enum(["request", "gone", "failing"]).nullable(),
    failing_since: unixSeconds.nullable(),
    created_at: unixSeconds,
  })
  .openapi("WebhookEndpoint");
export type WebhookEndpoint = DeepReadonly<z.output<typeof webhookEndpoint>>;

const secret = z
  .string()
  .optional()
  .openapi({ description: "signs what is sent: left out where an answer is replayed" });
export const webhookEndpointWithSecret = webhookEndpoint.extend({ secret }).openapi("WebhookEndpointWithSecret");
export type WebhookEndpointWithSecret = DeepReadonly<z.output<typeof webhookEndpointWithSecret>>;

/** Events since this time, in Unix seconds, are sent again. */
export const redeliverRequest = z.strictObject({ since: requestTime });
export const webhookRedelivery = z
  .object({
    object: z.literal("webhook_endpoint.redelivery"),
    id: z.string(),
    deliveries: z.number().int(),
    has_more: z.boolean(),
  })
  .openapi("WebhookRedelivery");
export type WebhookRedelivery = DeepReadonly<z.output<typeof webhookRedelivery>>;

const deliveryStatus = z.enum(["pending", "succeeded", "failed"]);

export const webhookDelivery = z
  .object({
    object: z.literal("webhook_delivery"),
    id: z.string(),
    /** The endpoint's id. */
    endpoint: z.string(),
    event: z.object({ id: z.string(), type: z.enum(eventTypes), sequence: z.number().int() }),
    status: deliveryStatus,
    attempt_count: z.number().int(),
    next_attempt_at: unixSeconds.nullable(),
    created_at: unixSeconds,
  })
  .openapi("WebhookDelivery");
export type WebhookDelivery = DeepReadonly<z.output<typeof webhookDelivery>>;

const deliveryAttempt = z.object({
  number: z.number().int(),
  created_at: unixSeconds,
  milliseconds: z.number().int().nullable(),
  status: z.number().int().nullable().openapi({ description: "the HTTP status; null where none came" }),
  answer: z.string().nullable().openapi({ description: "the first KiB" }),
  error: z.string().nullable().openapi({ description: "what went wrong where there is no whole answer" }),
});
export type WebhookDeliveryAttempt = DeepReadonly<z.output<typeof deliveryAttempt>>;

export const webhookDeliveryWithAttempts = webhookDelivery
  .extend({ attempts: z.array(deliveryAttempt).openapi({ description: "oldest first; the newest 50 are kept" }) })
  .openapi("WebhookDeliveryWithAttempts");
export type WebhookDeliveryWithAttempts = DeepReadonly<z.output<typeof webhookDeliveryWithAttempts>>;

export const webhookDeliveryQuery = pageQuery.extend({
  endpoint: z.string().min(1).max(100).optional(),
  status: deliveryStatus.optional(),
});
/** A page of deliveries, as a checked query asks for it. */
export type WebhookDeliveryPageRequest = DeepReadonly<z.output<typeof webhookDeliveryQuery>>;
