/**
 * The process of one attempt. If it runs out of memory, no other attempt is harmed; when it ends, its memory is free
 * again.
 */
import { makeBackbones } from "../../backbones/index.ts";
import type { Cost } from "../../core/linear/types.ts";
import type { Submission } from "../../jobs/protocol.ts";
import { nodeTensorBackend } from "../../tensor/node.ts";
import { makeWorkerClient, type WorkerClientOptions } from "../client/worker-client.ts";
import { redactedStack } from "../log.ts";
import type { BackboneSettings } from "../server/settings.ts";
import { runAttempt } from "./attempt.ts";
import { makeCancellation, type StopMode } from "./cancellation.ts";

export interface Setup {
  readonly submission: Submission;
  readonly workerOptions: WorkerClientOptions;
  readonly budget: Cost;
  readonly backbones: BackboneSettings;
  readonly maxSingleUploadBytes: number;
  readonly operationsPerSave: number;
}

/** Messages to the process: first the setup, later perhaps a request to stop. */
export type ParentMessage =
  | { readonly type: "setup"; readonly setup: Setup }
  | { readonly type: "stop"; readonly mode: StopMode };

/** Messages from the process: lines for the log, and in the end how the attempt ended. */
export type ChildMessage =
  | { readonly type: "log"; readonly event: string; readonly fields: Readonly<Record<string, string | number>> }
  | { readonly type: "ended"; readonly outcome: string };

const send = (message: ChildMessage, onSent?: () => void) => process.send?.(message, undefined, undefined, onSent);
const cancellation = makeCancellation();
const { promise: setup, resolve } = Promise.withResolvers<Setup>();
process.on("message", (message: ParentMessage) => {
  if (message.type === "setup") resolve(message.setup);
  else cancellation.request(message.mode);
});
// The process that started it is gone. When it starts again, it reports this attempt as lost.
process.on("disconnect", () => process.exit(1));
if (!process.connected) process.exit(1);
// Node would print the error's message, which may quote an input.
process.on("uncaughtException", (error) => {
  send({ type: "log", event: "crashed", fields: { stack: redactedStack(error) } }, () => process.exit(1));
});

const {
  submission,
  workerOptions,
  budget,
  maxSingleUploadBytes,
  operationsPerSave,
  backbones: backboneSettings,
} = await setup;

async function findBackbone(id: string) {
  const { bundledBackbones } = await import("../../backbones/node.ts");
  const { configuration, secrets } = backboneSettings;
  const table = makeBackbones(bundledBackbones, configuration, (name) => secrets[name], undefined);
  return (table.ok && table.value.get(id)) || null;
}

const outcome = await runAttempt({
  submission,
  workerClient: makeWorkerClient(workerOptions, submission),
  cancellation,
  tensors: await nodeTensorBackend(),
  backbone: submission.backbone && (await findBackbone(submission.backbone.id)),
  budget,
  maxSingleUploadBytes,
  operationsPerSave,
  log: (event, fields = {}) => send({ type: "log", event, fields }),
});
send({ type: "ended", outcome });
