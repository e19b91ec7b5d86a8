/** What the Worker may call on a ledger for inbound hooks and webhooks. */
import type { PageRequest } from "../../api/lists.ts";
import type { WebhookDeliveryPageRequest, WebhookEndpointChange } from "../../api/webhooks.ts";
import { changeDataset } from "../data/merge.ts";
import { suspendedFailure, type Transactions } from "../transactions.ts";
import * as deliveries from "./deliveries.ts";
import * as inbound from "./inbound.ts";
import * as messages from "./inbound-messages.ts";
import * as endpoints from "./webhook-endpoints.ts";

export const hookMethods = {
  createHook: (ledger: Transactions, claim: string | null, hook: inbound.NewHook) =>
    ledger.change((sql, now) => inbound.createHook(sql, ledger.secretKeys, hook, now), { claim, status: 201 }),
  getHook: (ledger: Transactions, id: string) => ledger.read((sql) => inbound.getHook(sql, id)),
  listHooks: (ledger: Transactions, request: PageRequest) => ledger.read((sql) => inbound.listHooks(sql, request)),
  deleteHook: (ledger: Transactions, id: string) => ledger.change((sql) => inbound.deleteHook(sql, id)),
  findHookByToken: (ledger: Transactions, tokenHash: string) =>
    ledger.isSuspended
      ? ({ ok: false, failure: suspendedFailure } as const)
      : ledger.read((sql) => inbound.findHookByToken(sql, ledger.secretKeys, tokenHash)),
  getMessageContext: (ledger: Transactions, id: string, messageId: string) =>
    ledger.read((sql, now) => messages.getMessageContext(sql, id, messageId, now)),
  recordPrediction: (
    ledger: Transactions,
    id: string,
    message: messages.VerifiedMessage,
    prediction: messages.HookPrediction,
  ) => ledger.change((sql, now) => messages.recordPrediction(sql, id, message, prediction, now)),
  learnExample: (ledger: Transactions, id: string, message: messages.VerifiedMessage, lesson: messages.HookExample) =>
    changeDataset(ledger, lesson.dataset.name, (sql, now) => messages.learnExample(sql, id, message, lesson, now)),

  createWebhookEndpoint: (ledger: Transactions, claim: string | null, endpoint: endpoints.NewWebhookEndpoint) =>
    ledger.change((sql, now) => endpoints.createEndpoint(sql, ledger.secretKeys, endpoint, now), {
      claim,
      status: 201,
    }),
  getWebhookEndpoint: (ledger: Transactions, id: string) => ledger.read((sql) => endpoints.getEndpoint(sql, id)),
  listWebhookEndpoints: (ledger: Transactions, request: PageRequest) =>
    ledger.read((sql) => endpoints.listEndpoints(sql, request)),
  updateWebhookEndpoint: (ledger: Transactions, id: string, patch: WebhookEndpointChange) =>
    ledger.change((sql) => endpoints.updateEndpoint(sql, id, patch)),
  rotateWebhookSecret: (ledger: Transactions, claim: string | null, id: string, secret: string) =>
    ledger.change((sql, now) => endpoints.rotateSecret(sql, ledger.secretKeys, { id, secret }, now), {
      claim,
      status: 200,
    }),
  deleteWebhookEndpoint: (ledger: Transactions, id: string) =>
    ledger.change((sql, now) => endpoints.deleteEndpoint(sql, id, now)),
  testWebhookEndpoint: (ledger: Transactions, claim: string | null, id: string) =>
    ledger.change((sql, now) => deliveries.testEndpoint(sql, id, now), { claim, status: 200 }),

  listWebhookDeliveries: (ledger: Transactions, request: WebhookDeliveryPageRequest) =>
    ledger.read((sql) => deliveries.listDeliveries(sql, request)),
  getWebhookDelivery: (ledger: Transactions, id: string) => ledger.read((sql) => deliveries.getDelivery(sql, id)),
  redeliver: (ledger: Transactions, claim: string | null, id: string) =>
    ledger.change((sql, now) => deliveries.redeliver(sql, id, now), { claim, status: 200 }),
  redeliverFailed: (ledger: Transactions, claim: string | null, id: string, sinceSeconds: number) =>
    ledger.change((sql, now) => deliveries.redeliverFailed(sql, id, sinceSeconds, now), { claim, status: 200 }),
};
