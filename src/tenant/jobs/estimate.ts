/** What a job is estimated to cost (core/job-cost.ts), by the size of its examples when it is created. */
import { estimateJobCost, type JobSize } from "../../core/job-cost.ts";
import { hasTrainableLayers } from "../../core/lifecycle/job.ts";
import type { Cost } from "../../core/linear/types.ts";
import { toTrainingOptions } from "../../jobs/protocol.ts";
import { findDataset } from "../data/datasets.ts";
import { getFile } from "../data/files.ts";
import { countLabels } from "../data/label-counts.ts";
import type { JobSpec } from "./jobs.ts";

/** A measurement has a sample of its examples, and trains nothing after the comparison. */
export function estimateJob(sql: SqlStorage, spec: JobSpec): Cost {
  const { task, dimensions, hyperparameters, seed, training, evaluation } = spec;
  const { n_epochs, batch_size } = hyperparameters;
  const layers = hasTrainableLayers(spec.trainable)
    ? { epochs: n_epochs, batchSize: batch_size, encoder: spec.encoder ?? null }
    : null;
  const options = toTrainingOptions({ hyperparameters: { ...training, seed }, evaluation });
  const all = measureSource(sql, spec);
  const examples = Math.min(all.examples, spec.measurement?.examples ?? all.examples);
  const textBytes = (all.textBytes * examples) / Math.max(1, all.examples);
  const { measurement } = spec;
  const work = { onlyCompares: measurement !== undefined, hasTestSet: Boolean(measurement?.test) };
  const size = { ...all, examples, textBytes, ...work };
  return estimateJobCost({ task, dimensions, ...size, layers }, options);
}

function measureSource(
  sql: SqlStorage,
  { source, modality }: JobSpec,
): Pick<JobSize, "examples" | "labels" | "textBytes"> {
  const isText = modality === "text";
  if (source.kind === "file") {
    const file = getFile(sql, source.id);
    if (!file.ok) return { examples: 0, labels: 0, textBytes: 0 };
    const { examples, labels } = file.value.graft;
    return { examples, labels, textBytes: isText ? file.value.bytes : 0 };
  }
  const dataset = findDataset(sql, source.name);
  if (!dataset.ok) return { examples: 0, labels: 0, textBytes: 0 };
  const { id, examples } = dataset.value;
  return { examples, labels: countLabels(sql, id), textBytes: isText ? examples * averageInputBytes(sql, id) : 0 };
}

/** Of some examples: reading all of a large dataset takes too long. */
function averageInputBytes(sql: SqlStorage, dataset: number): number {
  const sample =
    "SELECT octet_length(input) AS bytes FROM examples WHERE dataset = ? ORDER BY position DESC LIMIT 1000";
  return sql.exec<{ n: number }>(`SELECT coalesce(avg(bytes), 0) AS n FROM (${sample})`, dataset).one().n;
}
