/** Training a version of a head in this request, or making the job that does: asked for by a caller, or by a policy. */
import type { z } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { Backbone } from "../backbones/backbone.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import type { Promote } from "../core/lifecycle/job.ts";
import type { StoredExample } from "../tenant/data/examples.ts";
import type { HeadObject, NewHead } from "../tenant/heads/heads.ts";
import type { JobSpec } from "../tenant/jobs/jobs.ts";
import { ledger } from "../tenant/tenant.ts";
import { endHeadLeases } from "../serving/active-heads.ts";
import { chooseBackbone } from "../serving/backbones.ts";
import type { HttpEnv } from "../http/context.ts";
import { parseExample, shapeOf } from "../ingest/example.ts";
import type { newHead } from "../api/heads.ts";
import { jobSpec, type NewJob } from "../http/routes/jobs.ts";
import { beyondRequest, recordOf, runTraining, storeHead } from "./run.ts";
import { datasetSource, inlineSource, type TrainingSource } from "./source.ts";

type Wanted = z.infer<typeof newHead>;

const noTexts = fail(
  "modality_mismatch",
  "Lexical features are of texts, and these inputs are embeddings. Leave 'lexical' out.",
  { param: "hyperparameters.lexical" },
);

/** Trains what is wanted, stores its bytes, and then has the ledger take it by `commit`. */
export async function trainVersion(
  c: Context<HttpEnv>,
  wanted: Wanted,
  commit: (head: NewHead) => Promise<Result<HeadObject>>,
): Promise<Result<HeadObject>> {
  const started = Date.now();
  const { tenant } = c.var.caller;
  const { l2, class_weight, lexical, seed } = wanted.hyperparameters;
  const options: Options = { l2, classWeight: class_weight, seed, lexical, evaluation: evaluationOf(wanted) };
  const prepared =
    wanted.dataset === undefined ? await inline(c, wanted) : await stored(c, wanted.dataset, wanted.backbone, options);
  if (!prepared.ok) return prepared;
  const { source, backbone, dataset } = prepared.value;
  if (lexical === true && source.texts === null) return noTexts;
  const fitted = await runTraining(source, options);
  if (!fitted.ok) return fitted;
  c.set("figures", { examples: source.examples, embedded: fitted.value.embedded, operations: fitted.value.operations });
  const head = {
    id: wanted.name,
    modality: source.modality,
    backbone: backbone === null ? { id: "embedding", revision: "1" } : { id: backbone.id, revision: backbone.revision },
    dataset: { ...dataset, examples: source.examples },
  };
  const { bytes, record } = recordOf(fitted.value, head, Date.now() - started);
  const result = await storeHead(c.env.BUCKET, tenant, bytes, record, commit);
  endHeadLeases(tenant, wanted.name);
  return result;
}

function evaluationOf({ evaluation: { method, folds, fraction } }: Wanted) {
  return { method, ...(folds === undefined ? {} : { folds }), ...(fraction === undefined ? {} : { fraction }) };
}

/** The job that trains what is wanted on a file or a data set. */
export async function trainingJob(
  c: Context<HttpEnv>,
  wanted: Wanted,
  trainingFile: string,
  promote: Promote,
  trainable: JobSpec["trainable"],
): Promise<Result<NewJob>> {
  const { l2, class_weight, lexical, seed } = wanted.hyperparameters;
  return jobSpec(c, trainingFile, wanted.backbone, "backbone", {
    validation_file: null,
    head: wanted.name,
    promote,
    trainable,
    suffix: null,
    metadata: null,
    seed,
    hyperparameters: { n_epochs: "auto", batch_size: "auto", learning_rate_multiplier: "auto" },
    training: { l2, class_weight, lexical },
    evaluation: evaluationOf(wanted),
  });
}

type Options = Parameters<typeof runTraining>[1];

interface Prepared {
  readonly source: TrainingSource;
  readonly backbone: Backbone | null;
  readonly dataset: { readonly name: string | null; readonly revision: number | null };
}

async function stored(
  c: Context<HttpEnv>,
  datasetName: string,
  backboneId: string | undefined,
  options: Options,
): Promise<Result<Prepared>> {
  const tenantId = c.var.caller.tenant;
  const tenant = ledger(c.env.TENANT, tenantId);
  const found = await tenant.getDataset(datasetName);
  if (!found.ok) return { ok: false, failure: { ...found.failure, param: "dataset" } };
  const { task, modality, examples, labels, out_of_scope_label } = found.value;
  const backbone = await chooseBackbone(c.env, tenantId, modality, backboneId, "backbone");
  if (!backbone.ok) return backbone;
  if (options.lexical === true && modality !== "text") return noTexts;
  const dimensions = backbone.value?.dimensions ?? found.value.dimensions ?? 0;
  const outputs = Math.max(1, Object.keys(labels).filter((label) => label !== out_of_scope_label).length);
  // Before its rows are read: those of a set that is far too large would not fit into the ledger's memory.
  const beyond = beyondRequest({ task, examples, dimensions, outputs }, options);
  if (beyond) return { ok: false, failure: beyond };
  const rows = await tenant.readTrainingRows(
    datasetName,
    backbone.value ? `${backbone.value.id}@${backbone.value.revision}` : "",
  );
  if (!rows.ok) return rows;
  return ok({
    source: datasetSource(c.env.KV, tenantId, tenant, rows.value, backbone.value),
    backbone: backbone.value,
    dataset: { name: datasetName, revision: rows.value.dataset.revision },
  });
}

async function inline(c: Context<HttpEnv>, wanted: Wanted): Promise<Result<Prepared>> {
  const raw = wanted.examples ?? [];
  const first = raw[0];
  if (first === undefined) return fail("too_few_examples", "There are no examples to train on.", { param: "examples" });
  const shape = shapeOf(first);
  const examples: StoredExample[] = [];
  for (const [index, example] of raw.entries()) {
    const parsed = parseExample(example, shape, `examples[${index}]`);
    if (!parsed.ok) return parsed;
    examples.push(parsed.value);
  }
  const backbone = await chooseBackbone(c.env, c.var.caller.tenant, shape.modality, wanted.backbone, "backbone");
  if (!backbone.ok) return backbone;
  const dimensions = backbone.value?.dimensions ?? shape.dimensions ?? 0;
  const source = inlineSource(shape.task, examples, backbone.value, dimensions);
  return ok({ source, backbone: backbone.value, dataset: { name: null, revision: null } });
}
