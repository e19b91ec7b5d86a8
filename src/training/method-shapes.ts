/** What training a head and fine-tuning take of a dataset, before either is run. */
import type { Backbone } from "../backbones/backbone.ts";
import { isTrainable, trainableLayers } from "../backbones/deltas.ts";
import { isEncoder } from "../backbones/text-use.ts";
import type { MethodShape } from "../core/advice/comparison.ts";
import { expectedOperations, type SampleTraining } from "../core/advice/cost.ts";
import { encoderOperations } from "../core/fine-tuning-cost.ts";
import { BYTES_PER_TOKEN, estimateJobCost } from "../core/job-cost.ts";
import { estimateCost, OPERATIONS_PER_TEXT_BYTE } from "../core/linear/cost.ts";
import type { TrainingRows } from "../tenant/data/training-sets.ts";

const options = { l2: "auto", lexical: "auto", evaluation: { method: "auto" } } as const;

/** @param labels 0 for regression */
export function describeMethods(
  { dataset, positions, inputBytes }: TrainingRows,
  backbone: Backbone | null,
  labels: number,
  sample: SampleTraining,
): { readonly head: MethodShape; readonly fineTune: MethodShape | null } {
  const { task } = dataset;
  const examples = positions.length;
  const outputs = Math.max(1, labels);
  const dimensions = backbone?.dimensions ?? dataset.dimensions ?? 0;
  const headParameters = outputs * (dimensions + 1);
  const totalParameters = (backbone?.parameters ?? 0) + headParameters;
  const textBytes = backbone === null ? 0 : inputBytes;
  const predictionOperations = embeddingOperations(backbone, textBytes / Math.max(1, examples)) + 2 * headParameters;
  const shape = { task, examples, dimensions, outputs };
  const head = {
    trainedParameters: headParameters,
    totalParameters,
    cost: {
      operations: expectedOperations(sample, examples),
      bytes: estimateCost(shape, options).bytes,
    },
    predictionOperations,
  };
  if (backbone === null || !isTrainable(backbone)) return { head, fineTune: null };
  const encoder = isEncoder(backbone)
    ? { widths: backbone.shape.widths, hidden: backbone.shape.hidden, layers: trainableLayers(backbone) }
    : null;
  const layers = { epochs: "auto", batchSize: "auto", encoder } as const;
  const cost = estimateJobCost({ task, examples, labels: outputs, dimensions, textBytes, layers }, options);
  return { head, fineTune: { trainedParameters: totalParameters, totalParameters, cost, predictionOperations } };
}

/** Of a text of so many bytes. */
function embeddingOperations(backbone: Backbone | null, bytes: number): number {
  if (backbone === null) return 0;
  const words = OPERATIONS_PER_TEXT_BYTE * bytes;
  if (!isEncoder(backbone)) return words;
  return (
    words + encoderOperations(backbone.shape, { layers: 0, tokens: bytes / BYTES_PER_TOKEN, texts: 1, outputs: 0 })
  );
}
