/** Runs versions of a head on a test set, and compares two of them on the same rows. */
import { type EvaluationErrorType, type EvaluationRun, evaluationErrorTypes } from "../api/evaluations.ts";
import type { Decision } from "../core/evaluation/comparison.ts";
import { compareTests, type TestComparison } from "../core/evaluation/test-comparison.ts";
import type { TestPrediction, TestResult, TestTargets } from "../core/evaluation/test-set.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { newId } from "../lib/id.ts";
import { getHeadBackbone } from "../serving/backbones.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import { getHead } from "../store/heads.ts";
import type { TrainedData } from "../tenant/data/overlap.ts";
import type { NewRun, StoredError, StoredPrediction } from "../tenant/heads/evaluations.ts";
import { toServedHead } from "../tenant/heads/served-heads.ts";
import { getLedger } from "../tenant/tenant.ts";
import { type DatasetTest, runTest, type TestedHead } from "./test-set.ts";

export interface RunParams {
  readonly head: string;
  /** By default the active version, or the newest if none is active. */
  readonly version?: number | undefined;
  readonly dataset: string;
  /** Another version. */
  readonly compare_with?: number | undefined;
}

/** A version, stored or not yet, and what it was trained on; null if that is not known. */
export interface Contender extends TestedHead {
  readonly trained: TrainedData | null;
}

/** A stored version with its weights and its backbone. */
export interface StoredContender extends Contender {
  readonly id: string;
  readonly version: number;
  readonly sha256: string;
}

export interface TestRun {
  readonly run: NewRun;
  /** How the version compares with the other one; null without one. */
  readonly decision: Decision | null;
}

/** Runs a stored version on a test set, and another one beside it where the two are to be compared. */
export async function evaluateVersion(
  request: TenantRequest,
  params: RunParams,
): Promise<Result<{ readonly version: StoredContender; readonly run: NewRun }>> {
  const { head, dataset, compare_with } = params;
  const version = await loadVersion(request, head, params.version ?? null, "head");
  if (!version.ok) return version;
  if (version.value.version === compare_with)
    return fail("invalid_parameter", `Version ${compare_with} cannot be compared with itself. Name another one.`, {
      param: "compare_with",
    });
  const other = compare_with === undefined ? null : await loadVersion(request, head, compare_with, "compare_with");
  if (other?.ok === false) return other;
  const tested = await testContenders(request, dataset, version.value, other?.value ?? null, "dataset");
  return tested.ok ? ok({ version: version.value, run: tested.value.run }) : tested;
}

/** A version with its weights and its backbone; by default the active one, or the newest. */
export async function loadVersion(
  { env, tenant }: TenantRequest,
  name: string,
  number: number | null,
  param: string,
): Promise<Result<StoredContender>> {
  const record = await getLedger(env.TENANT, tenant).getHead(name, number);
  if (!record.ok) return { ok: false, failure: { ...record.failure, param } };
  const { id, version, sha256 } = record.value;
  const [head, backbone] = await Promise.all([
    getHead(env.KV, env.BUCKET, tenant, sha256),
    getHeadBackbone(env, tenant, toServedHead(record.value)),
  ]);
  if (head === null)
    return fail("storage_unavailable", "The head's weights could not be read. Try again.", { retryAfter: 5 });
  if (!backbone.ok) return backbone;
  return ok({ id, version, sha256, head, backbone: backbone.value, trained: { head: id, version } });
}

/** Tests a version, and another stored one beside it, on the same rows. `param` is where the request names the dataset. */
export async function testContenders(
  request: TenantRequest,
  dataset: string,
  contender: Contender,
  other: StoredContender | null,
  param: string,
): Promise<Result<TestRun>> {
  const contenders = other === null ? [contender] : [contender, other];
  const tested = await runTest(request, dataset, contenders, param);
  if (!tested.ok) return tested;
  const known = contenders.map(({ trained }) => trained).filter((trained) => trained !== null);
  const { id, revision } = tested.value.dataset;
  const counts = await getLedger(request.env.TENANT, request.tenant).countTrainedOn({ id, revision }, known);
  if (!counts.ok) return counts;
  const countOf = ({ trained }: Contender) =>
    trained === null ? null : (counts.value[known.indexOf(trained)] ?? null);
  const trainedOn = { own: countOf(contender), other: other && countOf(other) };
  return ok(toTestRun(tested.value, other, trainedOn));
}

interface TrainedOn {
  readonly own: number | null;
  readonly other: number | null;
}

function toTestRun(test: DatasetTest, other: StoredContender | null, trainedOn: TrainedOn): TestRun {
  const { dataset, positions } = test;
  const [own, rival = null] = test.tests;
  if (own === undefined) throw new Error("No head was tested.");
  const comparison = rival && compareTests(own.targets.targets, own.result, rival.result);
  const run: NewRun["run"] = {
    id: newId("eval_"),
    dataset: { name: dataset.name, revision: dataset.revision, examples: positions.length },
    evaluation: own.result.evaluation,
    comparison: other && comparison && toComparison(other, comparison, trainedOn.other),
    trained_on: trainedOn.own,
    ...describeTargets(own.targets, own.headLabels),
  };
  const errors = listErrors(positions, own.result, rival?.result ?? null, comparison);
  return { run: { run, dataset: dataset.id, errors }, decision: comparison?.decision ?? null };
}

function toComparison(
  { version }: StoredContender,
  { accuracy, otherAccuracy, fixed, broken, decision }: TestComparison,
  trainedOn: number | null,
): EvaluationRun["comparison"] {
  const { p_value, expected_gain, chance_of_loss } = decision;
  return {
    version,
    accuracy,
    other_accuracy: otherAccuracy,
    fixed: fixed.length,
    broken: broken.length,
    p_value,
    expected_gain,
    chance_of_loss,
    trained_on: trainedOn,
  };
}

const MAX_UNKNOWN_LABELS = 100;

/** What of the test set the head cannot predict. */
function describeTargets(
  { labels, targets }: TestTargets,
  knownLabels: number,
): Pick<EvaluationRun, "out_of_scope_examples" | "unknown_labels"> {
  if (targets.kind === "value") return { out_of_scope_examples: 0, unknown_labels: [] };
  const counts = new Array<number>(labels.length).fill(0);
  let outOfScope = 0;
  for (const row of targets.indices)
    for (const label of typeof row === "number" ? [row] : row) {
      if (label < 0) outOfScope++;
      else counts[label] = (counts[label] ?? 0) + 1;
    }
  const unknown = labels.slice(knownLabels).map((label, i) => ({ label, examples: counts[knownLabels + i] ?? 0 }));
  return {
    out_of_scope_examples: outOfScope,
    unknown_labels: unknown.sort((a, b) => b.examples - a.examples).slice(0, MAX_UNKNOWN_LABELS),
  };
}

/** The examples that the lists of a run show. */
function listErrors(
  positions: Uint32Array,
  result: TestResult,
  other: TestResult | null,
  comparison: TestComparison | null,
): StoredError[] {
  const [fixed, broken] = [new Set(comparison?.fixed), new Set(comparison?.broken)];
  const errors: StoredError[] = [];
  for (const [row, position] of positions.entries()) {
    const prediction = result.prediction(row);
    const isOfType: Record<EvaluationErrorType, boolean> = {
      wrong: prediction.isCorrect === false,
      fixed: fixed.has(row),
      broken: broken.has(row),
      out_of_scope: prediction.isCorrect === null && prediction.inScope === true,
    };
    const types = evaluationErrorTypes.reduce((sum, type, i) => sum + (isOfType[type] ? 2 ** i : 0), 0);
    if (types > 0) errors.push([position, types, toStored(prediction), other && toStored(other.prediction(row))]);
  }
  return errors;
}

/** Of more labels, the first ones are stored. */
const MAX_STORED_LABELS = 20;

function toStored({ values, score, inScope }: TestPrediction): StoredPrediction {
  return [values.slice(0, MAX_STORED_LABELS), score === null ? null : Number(score.toFixed(4)), inScope];
}
