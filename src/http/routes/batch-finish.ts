/** The end of an attempt: what it uploaded is checked, and stored as what the edge trains itself is. */
import { decodeDelta, fineTunedBackbone } from "../../backbones/fine-tuned.ts";
import { decodeHead } from "../../core/codec.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Head } from "../../core/head.ts";
import { trainsLayers } from "../../core/lifecycle/job.ts";
import { limits } from "../../core/limits.ts";
import type { Artifact, Directive, Manifest } from "../../jobs/protocol.ts";
import type { Attempt } from "../../jobs/token.ts";
import { artifactKey, backboneKey } from "../../store/keys.ts";
import { storeBytes } from "../../store/published.ts";
import { fineTunedId } from "../../tenant/heads/backbones.ts";
import type { NewHead } from "../../tenant/heads/heads.ts";
import type { JobSpec, TrainedLayers } from "../../tenant/jobs/jobs.ts";
import { ledger } from "../../tenant/tenant.ts";
import { endHeadLeases } from "../../serving/active-heads.ts";
import { trainable } from "../../serving/backbones.ts";
import { schemaFailure } from "../middleware/errors.ts";
import { evaluation } from "../../api/heads.ts";
import { storeHead } from "../../training/run.ts";

/** Ends a job by the head, and the layers of its backbone, that its attempt uploaded. */
export async function finish(
  env: Cloudflare.Env,
  { tenant, job, attempt }: Attempt,
  messageId: string,
  manifest: Manifest,
): Promise<Result<Directive>> {
  const owner = ledger(env.TENANT, tenant);
  const found = await owner.currentAttempt(job, attempt);
  if (!found.ok) return found;
  const spec = found.value;
  const read = (what: string, artifact: Artifact, limit: number, param: string) =>
    readArtifact(env.BUCKET, artifactKey(tenant, job, artifact.sha256), what, artifact, limit, param);
  const bytes = await read("head", manifest.artifact, limits.head_bytes, "manifest.artifact");
  if (!bytes.ok) return bytes;
  const head = decodeHead(bytes.value);
  if (head === null) return wrong("This is no head, or one that cannot be read.", "manifest.artifact");

  let layers: (TrainedLayers & { readonly stored: Uint8Array }) | null = null;
  if (manifest.backbone) {
    const { artifact, parameters, dimensions } = manifest.backbone;
    if (manifest.candidate !== "fine_tuned" || !trainsLayers(spec.trainable))
      return wrong("No layers of the backbone were to be trained.", "manifest.backbone");
    const of = "manifest.backbone.artifact";
    const stored = await read("fine-tuned backbone", artifact, limits.backbone_bytes, of);
    if (!stored.ok) return stored;
    const differs = unfitLayers(env, stored.value, spec, dimensions);
    if (differs !== null) return wrong(differs, of);
    layers = { ...artifact, parameters, dimensions, stored: stored.value };
  }
  const unfit = unfitHead(head, spec, layers?.dimensions ?? spec.dimensions);
  if (unfit !== null) return wrong(unfit, "manifest.artifact");
  const record = toRecord(spec, job, head, manifest, layers);
  if (!record.ok) return record;

  const done = await storeHead(env.BUCKET, tenant, bytes.value, record.value, async (made) => {
    if (layers === null) return owner.finishJob(job, attempt, messageId, manifest, made, null);
    const { stored, ...told } = layers;
    const put = storeBytes(env.BUCKET, backboneKey(tenant, told.sha256), stored);
    if (!(await put.then(...KEPT)))
      return fail("storage_unavailable", "The trained layers could not be stored. Try again.", { retryAfter: 5 });
    return owner.finishJob(job, attempt, messageId, manifest, made, told);
  });
  // As with the head: the tenant is gone, and no sweep comes any more.
  if (!done.ok && done.failure.code === "not_found" && layers !== null)
    await env.BUCKET.delete(backboneKey(tenant, layers.sha256)).catch(() => undefined);
  endHeadLeases(tenant, spec.head);
  return done;
}

const KEPT = [() => true, () => false] as const;

function wrong(message: string, param: string) {
  return fail("invalid_artifact", message, { param });
}

async function readArtifact(
  bucket: R2Bucket,
  key: string,
  what: string,
  { bytes }: Artifact,
  limit: number,
  param: string,
): Promise<Result<Uint8Array>> {
  const object = await bucket.get(key);
  if (object !== null && object.size === bytes && bytes <= limit) return ok(new Uint8Array(await object.arrayBuffer()));
  await object?.body.cancel();
  if (object?.size !== bytes) return wrong("There is no artifact of this hash and length.", param);
  const message = `A ${what} has at most ${limit} bytes; this one has ${bytes}. Use fewer labels, fewer examples, or a backbone of fewer dimensions.`;
  return fail("limit_exceeded", message, { param, details: { limit, actual: bytes } });
}

/** Why bytes are no layers of the backbone that the job is to train, or null. */
function unfitLayers(env: Cloudflare.Env, bytes: Uint8Array, { backbone }: JobSpec, told: number): string | null {
  const delta = decodeDelta(bytes);
  if (delta === null) return "These are no trained layers, or some that cannot be read.";
  const { id, revision } = delta.base;
  if (id !== backbone?.id || revision !== backbone.revision)
    return `The layers are of ${id}@${revision}, not of ${backbone?.id}@${backbone?.revision}.`;
  const base = trainable(env, backbone);
  if (base === null) return `The Worker no longer has ${id}@${revision}.`;
  const { dimensions } = fineTunedBackbone(base, { id, revision }, delta, bytes.length);
  if (delta.dimensions !== base.dimensions) return `The layers are of ${delta.dimensions} dimensions.`;
  return dimensions === told ? null : `The layers give ${dimensions} dimensions, not ${told}.`;
}

/** Why a head does not answer what its job asked for, or null. */
function unfitHead(head: Head, { task, modality }: JobSpec, dimensions: number): string | null {
  if (head.task !== task) return `The head is for the task '${head.task}', not '${task}'.`;
  if (head.dimensions !== dimensions) return `The head has ${head.dimensions} dimensions, not ${dimensions}.`;
  if (head.lexical !== null && modality !== "text")
    return "The head has lexical features, and the inputs are no texts.";
  const { labels, lexical } = head;
  if (labels.some((label) => typeof label !== "string") || new Set(labels).size < labels.length)
    return "The head's labels are not texts that differ.";
  if ((labels.length === 0) !== (task === "regression")) return `The head has ${labels.length} labels.`;
  const ofLexical = lexical === null ? [] : [[lexical.scale], lexical.idf, lexical.scales];
  const numbers = [
    head.weights,
    head.bias,
    head.conformal,
    [head.temperature, head.offset, head.outOfScopeThreshold ?? 0],
    ...ofLexical,
  ];
  const finite = numbers.every((list) => (list as readonly number[]).every(Number.isFinite));
  return finite && head.temperature > 0 ? null : "The head holds a number that is not finite.";
}

function toRecord(
  job: JobSpec,
  id: string,
  head: Head,
  { dataset, training, evaluation: told, artifact }: Manifest,
  layers: TrainedLayers | null,
): Result<NewHead> {
  const judged = evaluation.nullable().safeParse(told);
  if (!judged.success) return { ok: false, failure: schemaFailure(judged.error, told, "The evaluation") };
  const shared = job.backbone ?? { id: "embedding", revision: "1" };
  const own = layers && { id: fineTunedId(shared.id, job.suffix, id), revision: layers.sha256 };
  return ok({
    id: job.head,
    task: job.task,
    modality: job.modality,
    labels: head.labels,
    dimensions: head.dimensions,
    backbone: own ?? shared,
    dataset: { name: job.source.kind === "dataset" ? job.source.name : null, ...dataset },
    training: { method: layers === null ? "head" : "fine_tune", ...training },
    // It has just been held against the schema of what the interface shows.
    evaluation: judged.data as NewHead["evaluation"],
    sha256: artifact.sha256,
    bytes: artifact.bytes,
  });
}
