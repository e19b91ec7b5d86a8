/** Training a version of a head in this request, or making the job that does: asked for by a caller, or by a policy. */
import type { Context } from "hono";
import type { StoredExample } from "../api/examples.ts";
import type { Head, HeadParams } from "../api/heads.ts";
import type { Backbone } from "../backbones/backbone.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import type { PromotionMode } from "../core/lifecycle/job.ts";
import type { HttpEnv } from "../http/context.ts";
import { type NewJob, resolveJobSpec } from "../http/routes/jobs.ts";
import { inferShape, parseExample } from "../ingest/example.ts";
import { endHeadLeases } from "../serving/active-heads.ts";
import { chooseBackbone } from "../serving/backbones.ts";
import type { NewHead } from "../tenant/heads/heads.ts";
import type { JobSpec } from "../tenant/jobs/jobs.ts";
import { getLedger } from "../tenant/tenant.ts";
import { checkRequestBudget, runTraining, storeHead, toHeadRecord } from "./run.ts";
import { createDatasetSource, createInlineSource, type TrainingSource } from "./source.ts";

const lexicalNeedsTexts = fail(
  "modality_mismatch",
  "Lexical features are of texts, and these inputs are embeddings. Leave 'lexical' out.",
  { param: "hyperparameters.lexical" },
);

/** Trains what is wanted, stores its bytes, and then has the ledger take it by `commit`. */
export async function trainVersion(
  c: Context<HttpEnv>,
  params: HeadParams,
  commit: (head: NewHead) => Promise<Result<Head>>,
): Promise<Result<Head>> {
  const startedAt = Date.now();
  const { tenant } = c.var.caller;
  const { l2, class_weight, lexical, seed } = params.hyperparameters;
  const options: Options = { l2, classWeight: class_weight, seed, lexical, evaluation: toEvaluationOptions(params) };
  const prepared =
    params.dataset === undefined
      ? await prepareInline(c, params)
      : await prepareDataset(c, params.dataset, params.backbone, options);
  if (!prepared.ok) return prepared;
  const { source, backbone, dataset } = prepared.value;
  if (lexical === true && source.texts === null) return lexicalNeedsTexts;
  const trainingResult = await runTraining(source, options);
  if (!trainingResult.ok) return trainingResult;
  c.set("logFields", {
    examples: source.examples,
    embedded: trainingResult.value.embedded,
    operations: trainingResult.value.operations,
  });
  const head = {
    id: params.name,
    modality: source.modality,
    backbone: backbone === null ? { id: "embedding", revision: "1" } : { id: backbone.id, revision: backbone.revision },
    dataset: { ...dataset, examples: source.examples },
  };
  const { bytes, record } = toHeadRecord(trainingResult.value, head, Date.now() - startedAt);
  const result = await storeHead(c.env.BUCKET, tenant, bytes, record, commit);
  endHeadLeases(tenant, params.name);
  return result;
}

function toEvaluationOptions({ evaluation: { method, folds, fraction } }: HeadParams) {
  return { method, ...(folds === undefined ? {} : { folds }), ...(fraction === undefined ? {} : { fraction }) };
}

/** The job that trains what is wanted on a file or a data set. */
export async function resolveTrainingJobSpec(
  c: Context<HttpEnv>,
  params: HeadParams,
  trainingFile: string,
  promote: PromotionMode,
  trainable: JobSpec["trainable"],
): Promise<Result<NewJob>> {
  const { l2, class_weight, lexical, seed } = params.hyperparameters;
  return resolveJobSpec(c, trainingFile, params.backbone, "backbone", {
    validation_file: null,
    head: params.name,
    promote,
    trainable,
    suffix: null,
    metadata: null,
    seed,
    hyperparameters: { n_epochs: "auto", batch_size: "auto", learning_rate_multiplier: "auto" },
    training: { l2, class_weight, lexical },
    evaluation: toEvaluationOptions(params),
  });
}

type Options = Parameters<typeof runTraining>[1];

interface TrainingInput {
  readonly source: TrainingSource;
  readonly backbone: Backbone | null;
  readonly dataset: { readonly name: string | null; readonly revision: number | null };
}

async function prepareDataset(
  c: Context<HttpEnv>,
  datasetName: string,
  backboneId: string | undefined,
  options: Options,
): Promise<Result<TrainingInput>> {
  const tenantId = c.var.caller.tenant;
  const tenantLedger = getLedger(c.env.TENANT, tenantId);
  const found = await tenantLedger.getDataset(datasetName);
  if (!found.ok) return { ok: false, failure: { ...found.failure, param: "dataset" } };
  const { task, modality, examples, labels, out_of_scope_label } = found.value;
  const backbone = await chooseBackbone(c.env, tenantId, modality, backboneId, "backbone");
  if (!backbone.ok) return backbone;
  if (options.lexical === true && modality !== "text") return lexicalNeedsTexts;
  const dimensions = backbone.value?.dimensions ?? found.value.dimensions ?? 0;
  const outputs = Math.max(1, Object.keys(labels).filter((label) => label !== out_of_scope_label).length);
  // Before its rows are read: those of a set that is far too large would not fit into the ledger's memory.
  const budgetFailure = checkRequestBudget({ task, examples, dimensions, outputs }, options);
  if (budgetFailure) return { ok: false, failure: budgetFailure };
  const rows = await tenantLedger.readTrainingRows(
    datasetName,
    backbone.value ? `${backbone.value.id}@${backbone.value.revision}` : "",
  );
  if (!rows.ok) return rows;
  return ok({
    source: createDatasetSource(c.env.KV, tenantId, tenantLedger, rows.value, backbone.value),
    backbone: backbone.value,
    dataset: { name: datasetName, revision: rows.value.dataset.revision },
  });
}

async function prepareInline(c: Context<HttpEnv>, params: HeadParams): Promise<Result<TrainingInput>> {
  const raw = params.examples ?? [];
  const first = raw[0];
  if (first === undefined) return fail("too_few_examples", "There are no examples to train on.", { param: "examples" });
  const shape = inferShape(first);
  const examples: StoredExample[] = [];
  for (const [index, example] of raw.entries()) {
    const parsed = parseExample(example, shape, `examples[${index}]`);
    if (!parsed.ok) return parsed;
    examples.push(parsed.value);
  }
  const backbone = await chooseBackbone(c.env, c.var.caller.tenant, shape.modality, params.backbone, "backbone");
  if (!backbone.ok) return backbone;
  const dimensions = backbone.value?.dimensions ?? shape.dimensions ?? 0;
  const source = createInlineSource(shape.task, examples, backbone.value, dimensions);
  return ok({ source, backbone: backbone.value, dataset: { name: null, revision: null } });
}
