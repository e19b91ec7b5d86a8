/** The events that webhooks report. */
export const eventTypes = [
  "dataset.imported",
  "head.trained",
  "head.failed",
  "head.promoted",
  "head.drifting",
  "fine_tuning.job.created",
  "fine_tuning.job.running",
  "fine_tuning.job.paused",
  "fine_tuning.job.succeeded",
  "fine_tuning.job.failed",
  "fine_tuning.job.cancelled",
  "inbound.predicted",
  "inbound.learned",
  "webhook_endpoint.disabled",
  "webhook.test",
] as const;
export type EventType = (typeof eventTypes)[number];
