/** Stage 6: the model's bytes, uploaded to the Worker. */
import { decodeHead } from "../../../core/codec.ts";
import type { Artifact, Manifest } from "../../../jobs/protocol.ts";
import type { Outcome, WorkerClient } from "../../client/worker-client.ts";
import { artifactOf, upload } from "../artifact.ts";
import type { FinalModel } from "../checkpoint.ts";

/** Uploads the head and, if layers were trained, their delta. Answers the manifest that names both. */
export async function uploadModel(
  workerClient: WorkerClient,
  { head, delta, parameters, ...training }: FinalModel,
  dataset: Manifest["dataset"],
  maxSingleUploadBytes: number,
  signal: AbortSignal,
): Promise<Outcome<Manifest>> {
  const uploadBytes = (bytes: Uint8Array, artifact: Artifact) =>
    upload(workerClient, [bytes], artifact, maxSingleUploadBytes, signal);
  const artifact = artifactOf([head]);
  const headOutcome = await uploadBytes(head, artifact);
  if (headOutcome.type !== "answer") return headOutcome;
  let backbone: Manifest["backbone"] = null;
  if (delta !== null) {
    backbone = { artifact: artifactOf([delta]), parameters, dimensions: decodeHead(head)?.dimensions ?? 0 };
    const deltaOutcome = await uploadBytes(delta, backbone.artifact);
    if (deltaOutcome.type !== "answer") return deltaOutcome;
  }
  return { type: "answer", value: { ...training, artifact, backbone, dataset } };
}
