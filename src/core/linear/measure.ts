/** Measures feature sets on held-out rows, so that those of several backbones can be compared. */
import { ok, type Result } from "../failure.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { runBounded } from "./bounded.ts";
import type { HeldOutLosses } from "./candidates.ts";
import { buildFeatureSet } from "./feature-set.ts";
import { type EachSelectionOptions, selectEach } from "./penalty.ts";
import { prepareTraining } from "./prepare.ts";
import type { TrainingOptions, TrainingSet } from "./types.ts";

/** How well a feature set predicts held-out rows, at its best l2. */
export interface FeatureMeasurement {
  readonly lexical: boolean;
  readonly l2: number;
  readonly heldOut: HeldOutLosses;
  /** null but for one label a row. */
  readonly accuracy: number | null;
}

export interface MeasurementOptions extends Pick<EachSelectionOptions, "plan" | "maxEvaluations"> {
  /** One that is known to be good for embeddings of the same norm; null if none is known. */
  readonly nearbyL2: number | null;
  /** Whether a feature set with more features is measured after one with these losses. */
  readonly triesMore: (heldOut: HeldOutLosses) => boolean;
}

/**
 * Measures the feature sets that a training on `trainingSet` selects from: the embeddings, alone and beside lexical
 * features. With the same targets, groups, plan and seed the same rows are held out, whatever the features. Empty if no
 * rows can be held out. Fails as `train` does.
 */
export function* measureFeatures(
  tensors: TensorBackend,
  trainingSet: TrainingSet,
  options: TrainingOptions,
  { nearbyL2, triesMore, ...selectionOptions }: MeasurementOptions,
): Steps<Result<readonly FeatureMeasurement[]>> {
  const { seed, l2: requestedL2 } = options;
  const result = yield* runBounded(tensors, options.budget, function* (backend) {
    const prepared = yield* prepareTraining(backend, trainingSet, options);
    if (!prepared.ok) return prepared;
    const { design, lexicalChoices, rows, l2Scale } = prepared.value;
    const fixedL2 = requestedL2 === "auto" ? null : requestedL2 / l2Scale;
    const measurements: FeatureMeasurement[] = [];
    for (const lexical of lexicalChoices) {
      const featureSet = yield* buildFeatureSet(backend, design, rows.weights, lexical, seed);
      const goodL2 = measurements[0]?.l2 ?? nearbyL2;
      const [selection] = yield* selectEach(backend, [featureSet], rows, {
        ...selectionOptions,
        seed,
        fixedL2,
        nearbyL2: goodL2 === null ? null : goodL2 / l2Scale,
      });
      if (selection === undefined) break;
      const { l2, heldOut, accuracy } = selection;
      measurements.push({ lexical, l2: l2 * l2Scale, heldOut, accuracy });
      if (!triesMore(heldOut)) break;
    }
    return ok(measurements);
  });
  return result.ok ? ok(result.value.value) : result;
}
