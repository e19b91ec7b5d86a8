/** Jobs that measure both methods on samples of a dataset, for a recommendation. Their tenant sees that alone. */
import type { Recommendation } from "../../api/recommendations.ts";
import { chooseSamples, smallestSample } from "../../core/advice/samples.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { type JobRules, newComparisonState } from "../../core/lifecycle/job.ts";
import { OPERATIONS_PER_SECOND, type Prices } from "../../core/prices.ts";
import { newId } from "../../lib/id.ts";
import { countLabels } from "../data/label-counts.ts";
import { addRecommendation, type NewRecommendationRecord } from "../data/recommendations.ts";
import { DAY_MS, schedule } from "../tasks/tasks.ts";
import type { Transactions } from "../transactions.ts";
import { estimateJob } from "./estimate.ts";
import { getJobRules } from "./job-runner.ts";
import {
  checkActiveJobs,
  type JobMeasurement,
  type JobSpec,
  listMeasurements,
  listMeasurementsOfDataset,
} from "./jobs.ts";
import { addJob, applyEvent, checkSource } from "./lifecycle.ts";

/** What all samples may take together, if the budget does not say. */
const DEFAULT_SECONDS = 600;
/** A measurement that has not ended after this is given up: nobody sees its jobs, so nobody can cancel them. */
const DEADLINE_MS = 3 * DAY_MS;

export interface NewMeasurement {
  /** Of a job on all examples of a revision of the dataset. */
  readonly spec: Omit<JobSpec, "head" | "measurement">;
  readonly budget: { readonly seconds?: number | undefined; readonly usd?: number | undefined };
  readonly prices: Prices;
  /** The dataset on which the methods are compared; null: each on a part of its own sample. */
  readonly test: JobMeasurement["test"];
}

/**
 * Stores a recommendation for a dataset, by the dataset's number, and makes the jobs that measure it: it is `measuring`
 * until they have ended. If not even a small sample can be measured within the budget, it has `failed`, says why, and
 * stays as expected. Call it in a transaction.
 */
export function addMeasuredRecommendation(
  sql: SqlStorage,
  dataset: number,
  record: NewRecommendationRecord,
  { spec, budget, prices, test }: NewMeasurement,
  now: number,
): Result<Recommendation> {
  const toSpec = (head: string, examples: number): JobSpec => {
    const { batch_vcpu_second: usd_per_second } = prices;
    return { ...spec, head, measurement: { recommendation: record.id, examples, usd_per_second, test } };
  };
  const source = checkSource(sql, toSpec(record.id, record.dataset.examples));
  if (!source.ok) return source;
  const secondsOf = (examples: number) =>
    estimateJob(sql, toSpec(record.id, examples)).operations / OPERATIONS_PER_SECOND;
  const { examples } = record.dataset;
  const sizes = chooseSizes(examples, countLabels(sql, dataset), maxSeconds(budget, prices), secondsOf);
  if (!sizes.ok) {
    const { code, message } = sizes.failure;
    return addRecommendation(sql, dataset, { ...record, status: "failed", error: { code, message } }, now);
  }
  const active = checkActiveJobs(sql, sizes.value.length);
  if (!active.ok) return active;
  for (const size of sizes.value) {
    const job = newId("ftjob-");
    addJob(sql, job, toSpec(job, size), newComparisonState(now), now);
  }
  schedule(sql, "end_measurement", record.id, now + DEADLINE_MS);
  return addRecommendation(sql, dataset, { ...record, status: "measuring" }, now);
}

/** Of one core, since that has the price. */
function maxSeconds({ seconds, usd }: NewMeasurement["budget"], prices: Prices): number {
  if (usd === undefined) return seconds ?? DEFAULT_SECONDS;
  return Math.min(seconds ?? Number.POSITIVE_INFINITY, usd / prices.batch_vcpu_second);
}

function chooseSizes(
  examples: number,
  labels: number,
  maxSeconds: number,
  secondsOf: (examples: number) => number,
): Result<number[]> {
  const smallest = smallestSample(labels);
  if (examples < smallest) {
    const message = `A measurement needs at least ${smallest} examples: 50, and two a label. There are ${examples}. Add examples.`;
    return fail("too_few_examples", message);
  }
  const sizes = chooseSamples(examples, labels, maxSeconds, secondsOf);
  if (sizes.length > 0) return ok(sizes);
  const seconds = (value: number) => `${Number(value.toPrecision(2))} seconds`;
  const message = `The smallest sample, of ${smallest} examples, takes about ${seconds(secondsOf(smallest))}, and the budget has ${seconds(maxSeconds)}. Raise it.`;
  return fail("limit_exceeded", message);
}

/** Ends the jobs that measure on a dataset, which is gone. */
export function cancelMeasurements(sql: SqlStorage, dataset: number, now: number, rules: JobRules): void {
  for (const job of listMeasurementsOfDataset(sql, dataset)) applyEvent(sql, job, { type: "cancel" }, now, rules);
}

/** Runs the task `end_measurement`: cancels what is left of a recommendation's jobs. */
export function endMeasurement({ env, storage }: Transactions, recommendation: string): null {
  storage.transactionSync(() => {
    for (const job of listMeasurements(storage.sql, recommendation))
      applyEvent(storage.sql, job, { type: "cancel" }, Date.now(), getJobRules(env));
  });
  return null;
}
