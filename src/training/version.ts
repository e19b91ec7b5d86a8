/** Trains a version of a head in this request. A caller or a policy asks for it. */
import type { Head, HeadParams, TrainingChoice } from "../api/heads.ts";
import { withConfusedPairs } from "../core/evaluation/confused.ts";
import type { Failure, Result } from "../core/failure.ts";
import { heldPositions, withSketch } from "../core/sketch.ts";
import { toTrainingOptions } from "../jobs/protocol.ts";
import { endHeadLeases } from "../serving/active-heads.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import type { NewHead } from "../tenant/heads/heads.ts";
import { getLedger } from "../tenant/tenant.ts";
import { storeHead, toHeadRecord } from "./artifacts.ts";
import { runComparedTraining } from "./compare.ts";
import { readLabels } from "./label-source.ts";
import { lexicalNeedsTexts, prepareDataset, prepareInline } from "./training-input.ts";
import { type NewVersionTest, testNewVersion } from "./version-test.ts";

/**
 * Trains a head, tests it on the test set if there is one, stores its bytes, and records the version in the ledger by
 * `commit`. A test that fails does not stop it.
 */
export async function trainVersion(
  request: TenantRequest,
  params: HeadParams,
  commit: (head: NewHead, test: NewVersionTest | null, vectors: Uint32Array | null) => Promise<Result<Head>>,
  choice: TrainingChoice | null = null,
): Promise<Result<Head>> {
  const startedAt = Date.now();
  const { env, tenant } = request;
  const options = toTrainingOptions(params);
  const labels = readLabels(params.labels);
  if (!labels.ok) return labels;
  const prepared =
    params.dataset === undefined
      ? await prepareInline(request, params, labels.value)
      : await prepareDataset(request, params, params.dataset, labels.value, options);
  if (!prepared.ok) return prepared;
  const { plan, shape, dataset } = prepared.value;
  // The commit refuses it as well, but only after the work.
  const taskCheck = await getLedger(env.TENANT, tenant).checkHeadTask(params.name, shape.task);
  if (!taskCheck.ok) return taskCheck;
  if (options.lexical === true && shape.modality === "embedding") return lexicalNeedsTexts;
  const trainingResult = await runComparedTraining(request, plan, options);
  if (!trainingResult.ok) return nameExamples(trainingResult.failure, params);
  const { backbone, embedded, operations } = trainingResult.value;
  request.setLogFields({ examples: dataset.examples, embedded, operations });
  const head = {
    id: params.name,
    modality: shape.modality,
    backbone: backbone === null ? { id: "embedding", revision: "1" } : { id: backbone.id, revision: backbone.revision },
    dataset,
    labels: labels.value.labels,
  };
  const { confused, evaluation } = trainingResult.value;
  const idOf = await prepared.value.readExampleIds(confused.flatMap(({ rows }) => rows));
  const trained = { ...trainingResult.value, evaluation: withConfusedPairs(evaluation, confused, idOf) };
  const sketched = withSketch(trained.head, trained.sketch, prepared.value.positionOf);
  const { bytes, record: trainedRecord } = toHeadRecord(
    env,
    { ...trained, head: sketched },
    head,
    Date.now() - startedAt,
  );
  const record =
    choice === null ? trainedRecord : { ...trainedRecord, training: { ...trainedRecord.training, choice } };
  const { name: trainedDataset, revision } = dataset;
  const contender = {
    head: trainingResult.value.head,
    backbone,
    trained: trainedDataset === null || revision === null ? null : { dataset: trainedDataset, revision },
  };
  const { test_dataset: testDataset } = params;
  const test = testDataset === undefined ? null : await testNewVersion(request, params.name, testDataset, contender);
  // As a training does: it stops when its client has gone.
  if (test?.failure && request.signal.aborted) return { ok: false, failure: test.failure };
  const testedRecord = test ? { ...record, test: test.record } : record;
  const result = await storeHead(env.BUCKET, tenant, bytes, testedRecord, (version) =>
    commit(version, test, heldPositions(sketched)),
  );
  endHeadLeases(tenant, params.name);
  return result;
}

/** The failure, which names the parameter that gave the examples if it is of these. */
function nameExamples(failure: Failure, { dataset, examples }: HeadParams): Result<never> {
  const isOfExamples = failure.code === "too_few_labels" || failure.code === "too_few_examples";
  const param = isOfExamples
    ? dataset !== undefined
      ? "dataset"
      : examples !== undefined
        ? "examples"
        : "labels"
    : failure.param;
  return { ok: false, failure: { ...failure, ...(param === undefined ? {} : { param }) } };
}
