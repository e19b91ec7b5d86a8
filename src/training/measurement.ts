/** What a measurement for a recommendation trains. */
import { defaultHeadHyperparameters } from "../api/heads.ts";
import { defaultHyperparameters } from "../api/jobs.ts";
import type { RecommendationParams } from "../api/recommendations.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { hasTrainableLayers } from "../core/lifecycle/job.ts";
import { parsePrices } from "../core/prices.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import { getBatchEndpoint } from "../tenant/jobs/job-runner.ts";
import type { NewMeasurement } from "../tenant/jobs/measurements.ts";
import { getLedger } from "../tenant/tenant.ts";
import { resolveJobSpec } from "./job-spec.ts";

/**
 * The jobs' specification: both methods by their defaults, on a revision of the dataset. Fails with `not_available` without
 * a batch endpoint, or if the backbone has no layers to train, and with `task_mismatch` for values.
 */
export async function resolveMeasurement(
  request: TenantRequest,
  { dataset, backbone, budget = {}, test_dataset }: Omit<RecommendationParams, "measure">,
  revision: number,
): Promise<Result<NewMeasurement>> {
  const param = "measure";
  if (getBatchEndpoint(request.env) === null)
    return fail(
      "not_available",
      "This instance has no batch endpoint, which a measurement needs. Leave 'measure' out.",
      {
        param,
      },
    );
  const { seed, ...training } = defaultHeadHyperparameters;
  const resolved = await resolveJobSpec(
    request,
    { trainingFile: `dataset:${dataset}`, datasetRevision: revision, model: backbone, param: "backbone" },
    {
      validation_file: null,
      head: null,
      promote: "never",
      trainable: null,
      suffix: null,
      metadata: null,
      seed,
      hyperparameters: defaultHyperparameters,
      training,
      evaluation: { method: "auto" },
      test_dataset: null,
    },
  );
  if (!resolved.ok) {
    const { failure } = resolved;
    return failure.param === "training_file" ? { ok: false, failure: { ...failure, param: "dataset" } } : resolved;
  }
  const { head: _head, ...spec } = resolved.value;
  if (spec.task === "regression")
    return fail("task_mismatch", "A measurement compares labels, and this dataset has values. Leave 'measure' out.", {
      param,
    });
  if (!hasTrainableLayers(spec.trainable))
    return fail(
      "not_available",
      "There are no layers to train: only those of 'text-use-1' and 'text-static-1' can be. Name one of them as the backbone, or leave 'measure' out.",
      { param: "backbone" },
    );
  const test = test_dataset === undefined ? ok(null) : await findTestSet(request, test_dataset, spec);
  if (!test.ok) return test;
  const prices = parsePrices(request.env.PRICES);
  if (!prices.ok) throw new Error(prices.failure.message);
  return ok({ spec, budget, prices: prices.value, test: test.value });
}

async function findTestSet(
  { env, tenant }: TenantRequest,
  name: string,
  spec: NewMeasurement["spec"],
): Promise<Result<NewMeasurement["test"]>> {
  const ledger = getLedger(env.TENANT, tenant);
  const checked = await ledger.checkTestDataset(name, spec);
  if (!checked.ok) return checked;
  const found = await ledger.findDataset(name);
  if (!found.ok) return { ok: false, failure: { ...found.failure, param: "test_dataset" } };
  const { id, revision } = found.value;
  return ok({ name, id, revision });
}
