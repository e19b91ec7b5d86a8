/** The end of an attempt: its uploads are checked, and stored in the same way as a head that was trained in a request. */
import { evaluation } from "../../api/heads.ts";
import { schemaFailure } from "../../api/validation.ts";
import type { Backbone } from "../../backbones/backbone.ts";
import { loadDelta, readDelta } from "../../backbones/deltas.ts";
import { decodeHead } from "../../core/codec.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Head } from "../../core/head.ts";
import { hasTrainableLayers } from "../../core/lifecycle/job.ts";
import { limits } from "../../core/limits.ts";
import { heldPositions } from "../../core/sketch.ts";
import type { Artifact, Directive, Manifest } from "../../jobs/protocol.ts";
import type { Attempt } from "../../jobs/token.ts";
import { endHeadLeases } from "../../serving/active-heads.ts";
import { findTrainableBackbone, getSharedBackbones } from "../../serving/backbones.ts";
import { storeBytes } from "../../store/content-addressed.ts";
import { artifactKey, backboneKey } from "../../store/keys.ts";
import { fineTunedId } from "../../tenant/heads/backbones.ts";
import type { NewHead } from "../../tenant/heads/heads.ts";
import type { TrainedLayers } from "../../tenant/jobs/attempts.ts";
import type { JobSpec } from "../../tenant/jobs/jobs.ts";
import { getLedger } from "../../tenant/tenant.ts";
import { describeCost, describeRange, storeHead } from "../../training/artifacts.ts";

/** Trained layers with their bytes, and how many parameters the backbone has with them. */
type UploadedLayers = TrainedLayers & { readonly layerBytes: Uint8Array; readonly totalParameters: number };

/** Ends a job with the head, and the layers of its backbone, that its attempt has uploaded. */
export async function finishAttempt(
  env: Cloudflare.Env,
  { tenant, job, attempt }: Attempt,
  messageId: string,
  manifest: Manifest,
): Promise<Result<Directive>> {
  const ledger = getLedger(env.TENANT, tenant);
  const found = await ledger.getCurrentAttempt(job, attempt);
  if (!found.ok) return found;
  const spec = found.value;
  const read = (request: ArtifactRequest) =>
    readArtifact(env.BUCKET, artifactKey(tenant, job, request.artifact.sha256), request);
  const bytes = await read({
    kind: "head",
    artifact: manifest.artifact,
    limit: limits.head_bytes,
    param: "manifest.artifact",
  });
  if (!bytes.ok) return bytes;
  const head = decodeHead(bytes.value);
  if (head === null) return invalidArtifact("This is no head, or one that cannot be read.", "manifest.artifact");
  const uploadedLayers = await readLayers(env, spec, manifest, read);
  if (!uploadedLayers.ok) return uploadedLayers;
  const layers = uploadedLayers.value;
  const headMismatch = findHeadMismatch(head, spec, layers?.dimensions ?? spec.dimensions);
  if (headMismatch !== null) return invalidArtifact(headMismatch, "manifest.artifact");
  const record = toHeadRecord(env, spec, job, head, manifest, layers);
  if (!record.ok) return record;

  const done = await storeHead(env.BUCKET, tenant, bytes.value, record.value, async (newHead) => {
    const vectors = spec.source.kind === "dataset" ? heldPositions(head) : null;
    const result = { job, attempt, messageId, candidate: manifest.candidate, head: newHead, vectors };
    if (layers === null) return ledger.finishJob({ ...result, layers: null });
    const { layerBytes, totalParameters: _totalParameters, ...layersRecord } = layers;
    const upload = storeBytes(env.BUCKET, backboneKey(tenant, layersRecord.sha256), layerBytes);
    if (!(await upload.then(...AS_BOOLEAN)))
      return fail("storage_unavailable", "The trained layers could not be stored. Try again.", { retryAfter: 5 });
    return ledger.finishJob({ ...result, layers: layersRecord });
  });
  // As with the head: the tenant is gone, and no sweep will run.
  if (!done.ok && done.failure.code === "not_found" && layers !== null)
    await env.BUCKET.delete(backboneKey(tenant, layers.sha256)).catch(() => undefined);
  endHeadLeases(tenant, spec.head);
  return done;
}

const AS_BOOLEAN = [() => true, () => false] as const;

function invalidArtifact(message: string, param: string) {
  return fail("invalid_artifact", message, { param });
}

interface ArtifactRequest {
  /** What the artifact is, for messages. */
  readonly kind: string;
  readonly artifact: Artifact;
  /** In bytes. */
  readonly limit: number;
  readonly param: string;
}

async function readArtifact(
  bucket: R2Bucket,
  key: string,
  { kind, artifact: { bytes }, limit, param }: ArtifactRequest,
): Promise<Result<Uint8Array>> {
  const object = await bucket.get(key);
  if (object !== null && object.size === bytes && bytes <= limit) return ok(new Uint8Array(await object.arrayBuffer()));
  await object?.body.cancel();
  if (object?.size !== bytes) return invalidArtifact("There is no artifact of this hash and length.", param);
  const message = `A ${kind} has at most ${limit} bytes; this one has ${bytes}. Use fewer labels, fewer examples, or a backbone of fewer dimensions.`;
  return fail("limit_exceeded", message, { param, details: { limit, actual: bytes } });
}

/** The trained layers that a manifest names, or null where it names none. */
async function readLayers(
  env: Cloudflare.Env,
  spec: JobSpec,
  manifest: Manifest,
  read: (request: ArtifactRequest) => Promise<Result<Uint8Array>>,
): Promise<Result<UploadedLayers | null>> {
  if (!manifest.backbone) return ok(null);
  const { artifact, parameters, dimensions } = manifest.backbone;
  if (manifest.candidate !== "fine_tuned" || !hasTrainableLayers(spec.trainable))
    return invalidArtifact("No layers of the backbone were to be trained.", "manifest.backbone");
  const param = "manifest.backbone.artifact";
  const layerBytes = await read({ kind: "fine-tuned backbone", artifact, limit: limits.backbone_bytes, param });
  if (!layerBytes.ok) return layerBytes;
  const loaded = loadLayers(env, layerBytes.value, spec, dimensions);
  if (typeof loaded === "string") return invalidArtifact(loaded, param);
  return ok({ ...artifact, parameters, dimensions, layerBytes: layerBytes.value, totalParameters: loaded.parameters });
}

/** The backbone with these layers; or why they are not of the one that the job trains. */
function loadLayers(
  env: Cloudflare.Env,
  bytes: Uint8Array,
  { backbone }: JobSpec,
  declaredDimensions: number,
): Backbone | string {
  const delta = readDelta(bytes);
  if (delta === null) return "These are no trained layers, or some that cannot be read.";
  const { id, revision } = delta.base;
  if (id !== backbone?.id || revision !== backbone.revision)
    return `The layers are of ${id}@${revision}, not of ${backbone?.id}@${backbone?.revision}.`;
  const base = findTrainableBackbone(env, backbone);
  if (base === null) return `The Worker no longer has ${id}@${revision}.`;
  const loaded = loadDelta(base, { id, revision }, delta, bytes.length);
  if (loaded === null) return `The layers do not fit those of ${id}@${revision}.`;
  const { dimensions } = loaded.backbone;
  return dimensions === declaredDimensions
    ? loaded.backbone
    : `The layers give ${dimensions} dimensions, not ${declaredDimensions}.`;
}

/** Why a head does not fit its job, or null. */
function findHeadMismatch(head: Head, { task, modality }: JobSpec, dimensions: number): string | null {
  if (head.task !== task) return `The head is for the task '${head.task}', not '${task}'.`;
  if (head.dimensions !== dimensions) return `The head has ${head.dimensions} dimensions, not ${dimensions}.`;
  if (head.lexical !== null && modality !== "text")
    return "The head has lexical features, and the inputs are no texts.";
  const { labels, lexical } = head;
  if (labels.some((label) => typeof label !== "string") || new Set(labels).size < labels.length)
    return "The head's labels are not texts that differ.";
  if ((labels.length === 0) !== (task === "regression")) return `The head has ${labels.length} labels.`;
  const lexicalNumbers = lexical === null ? [] : [[lexical.scale], lexical.idf, lexical.scales];
  const { scope } = head;
  const scopeNumbers =
    scope === null
      ? []
      : [
          scope.scores,
          scope.centroids?.scales ?? [],
          ...scope.figures.map((each) => [each.mean, each.deviation, each.weight]),
        ];
  const numbers = [
    head.weights,
    head.bias,
    head.conformal,
    [head.temperature, head.offset, head.outOfScopeThreshold ?? 0],
    ...lexicalNumbers,
    ...scopeNumbers,
  ];
  const finite = numbers.every((list) => (list as readonly number[]).every(Number.isFinite));
  return finite && head.temperature > 0 ? null : "The head holds a number that is not finite.";
}

function toHeadRecord(
  env: Cloudflare.Env,
  job: JobSpec,
  id: string,
  head: Head,
  { dataset, training: manifestTraining, evaluation: rawEvaluation, artifact }: Manifest,
  layers: UploadedLayers | null,
): Result<NewHead> {
  const parsed = evaluation.nullable().safeParse(rawEvaluation);
  if (!parsed.success) return { ok: false, failure: schemaFailure(parsed.error, rawEvaluation, "The evaluation") };
  const sharedBackbone = job.backbone ?? { id: "embedding", revision: "1" };
  const { operations, ...training } = manifestTraining;
  const total = layers?.totalParameters ?? getSharedBackbones(env).get(sharedBackbone.id)?.parameters ?? 0;
  const parameters = { trained: layers?.parameters ?? 0, total };
  const ownBackbone = layers && { id: fineTunedId(sharedBackbone.id, job.suffix, id), revision: layers.sha256 };
  return ok({
    id: job.head,
    task: job.task,
    modality: job.modality,
    labels: head.labels,
    dimensions: head.dimensions,
    backbone: ownBackbone ?? sharedBackbone,
    dataset: { name: job.source.kind === "dataset" ? job.source.name : null, ...dataset },
    training: {
      method: layers === null ? "head" : "fine_tune",
      ...training,
      ...(operations === undefined ? {} : describeCost(env, "batch", operations, head, parameters)),
      ...describeRange(head.valueRange),
    },
    evaluation: parsed.data,
    sha256: artifact.sha256,
    bytes: artifact.bytes,
  });
}
