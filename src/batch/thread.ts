/** The thread of one attempt, which takes all its memory with it when it ends. */
import { parentPort, workerData } from "node:worker_threads";
import { backbones } from "../backbones/index.ts";
import type { Cost } from "../core/cost.ts";
import type { Submission } from "../jobs/protocol.ts";
import { nodeTensors } from "../tensor/node.ts";
import { runAttempt } from "./attempt.ts";
import { edgeOf, type Origin } from "./edge.ts";
import { makeEnding, type Way } from "./ending.ts";
import type { BackboneSettings } from "./settings.ts";

export interface Setup {
  readonly submission: Submission;
  readonly origin: Origin;
  readonly budget: Cost;
  readonly backbones: BackboneSettings;
  readonly largestSingle: number;
}

/** What the thread says: lines for the log, and in the end how the attempt ended. */
export type Said =
  | { readonly type: "log"; readonly event: string; readonly fields: Readonly<Record<string, string | number>> }
  | { readonly type: "ended"; readonly how: string };

const { submission, origin, budget, largestSingle, ...setup } = workerData as Setup;
const say = (said: Said) => parentPort?.postMessage(said);
const ending = makeEnding();
parentPort?.on("message", (way: Way) => ending.ask(way));

async function backboneOf(id: string) {
  const { textStatic } = await import("../backbones/node.ts");
  const { configuration, secrets } = setup.backbones;
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
