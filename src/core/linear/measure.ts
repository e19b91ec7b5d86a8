/** Measures feature sets on held-out rows, so that those of several backbones can be compared. */
import { ok, type Result } from "../failure.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { runBounded } from "./bounded.ts";
import type { HeldOutLosses } from "./candidates.ts";
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

export interface MeasurementOptions extends Pick<EachSelectionOptions, "plan" | "maxEvaluations" | "triesMore"> {
  /** One that is known to be good for embeddings of the same norm; null if none is known. */
  readonly nearbyL2: number | null;
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
  { nearbyL2, ...selectionOptions }: MeasurementOptions,
): Steps<Result<readonly FeatureMeasurement[]>> {
  const { seed, l2: requestedL2 } = options;
  const result = yield* runBounded(tensors, options.budget, function* (backend) {
    const prepared = yield* prepareTraining(backend, trainingSet, options);
    if (!prepared.ok) return prepared;
    const { featureSets, rows, l2Scale } = prepared.value;
    const selections = yield* selectEach(backend, featureSets, rows, {
      ...selectionOptions,
      seed,
      fixedL2: requestedL2 === "auto" ? null : requestedL2 / l2Scale,
      nearbyL2: nearbyL2 === null ? null : nearbyL2 / l2Scale,
    });
    return ok(
      selections.map(({ featureSet, l2, heldOut, accuracy }) => ({
        lexical: featureSet.lexical,
        l2: l2 * l2Scale,
        heldOut,
        accuracy,
      })),
    );
  });
  return result.ok ? ok(result.value.value) : result;
}
