/** The process of one attempt, which takes all its memory with it when it ends, and nothing else when it runs out of it. */
import { backbones } from "../../backbones/index.ts";
import type { Cost } from "../../core/linear/cost.ts";
import type { Submission } from "../../jobs/protocol.ts";
import { nodeTensors } from "../../tensor/node.ts";
import { runAttempt } from "./attempt.ts";
import { edgeOf, type Origin } from "../client/worker-client.ts";
import { makeEnding, type Way } from "./cancellation.ts";
import { framesOf } from "../log.ts";
import type { BackboneSettings } from "../server/settings.ts";

export interface Setup {
  readonly submission: Submission;
  readonly origin: Origin;
  readonly budget: Cost;
  readonly backbones: BackboneSettings;
  readonly largestSingle: number;
}

/** What the process hears: first what to do, later perhaps how to end. */
export type Heard = { readonly type: "setup"; readonly setup: Setup } | { readonly type: "stop"; readonly way: Way };

/** What it says: lines for the log, and in the end how the attempt ended. */
export type Said =
  | { readonly type: "log"; readonly event: string; readonly fields: Readonly<Record<string, string | number>> }
  | { readonly type: "ended"; readonly how: string };

const say = (said: Said, then?: () => void) => process.send?.(said, undefined, undefined, then);
const ending = makeEnding();
const { promise: setup, resolve } = Promise.withResolvers<Setup>();
process.on("message", (heard: Heard) => {
  if (heard.type === "setup") resolve(heard.setup);
  else ending.ask(heard.way);
});
// Whoever started it is gone, and tells of a lost attempt when it is there again.
process.on("disconnect", () => process.exit(1));
if (!process.connected) process.exit(1);
// As it would be printed, an error's message may quote an input.
process.on("uncaughtException", (error) => {
  say({ type: "log", event: "crashed", fields: { at: framesOf(error) } }, () => process.exit(1));
});

const { submission, origin, budget, largestSingle, backbones: configured } = await setup;

async function backboneOf(id: string) {
  const { textStatic } = await import("../../backbones/node.ts");
  const { configuration, secrets } = configured;
  const table = backbones(textStatic, configuration, (name) => secrets[name], undefined);
  return (table.ok && table.value.get(id)) || null;
}

const how = await runAttempt({
  submission,
  edge: edgeOf(origin, submission),
  ending,
  tensors: await nodeTensors(),
  backbone: submission.backbone && (await backboneOf(submission.backbone.id)),
  budget,
  largestSingle,
  log: (event, fields = {}) => say({ type: "log", event, fields }),
});
say({ type: "ended", how });
