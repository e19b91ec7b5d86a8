/** Measures feature sets on held-out rows, so that those of several backbones can be compared. */
import { ok, type Result } from "../failure.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { runBounded } from "./bounded.ts";
import type { HeldOutLosses } from "./candidates.ts";
import { selectEach } from "./penalty.ts";
import { prepareTraining } from "./prepare.ts";
import type { TrainingOptions, TrainingSet } from "./types.ts";
import type { SelectionPlan } from "./workload.ts";

/** A measurement ranks backbones, and need not come closer to the optimum than so many evaluations of the objective do. */
const MAX_EVALUATIONS = 30;

/** How well a feature set predicts held-out rows, at its best l2. */
export interface FeatureMeasurement {
  readonly lexical: boolean;
  readonly l2: number;
  readonly heldOut: HeldOutLosses;
  /** null but for one label a row. */
  readonly accuracy: number | null;
}

/**
 * Measures the feature sets that a training on `trainingSet` selects from: the embeddings, alone and beside lexical
 * features. With the same targets, groups, plan and seed the same rows are held out, whatever the features. Empty if no
 * rows can be held out. Fails as `train` does.
 *
 * @param nearbyL2 one that is known to be good for embeddings of the same norm; null if none is known
 */
export function* measureFeatures(
  tensors: TensorBackend,
  trainingSet: TrainingSet,
  options: TrainingOptions,
  plan: SelectionPlan,
  nearbyL2: number | null,
): Steps<Result<readonly FeatureMeasurement[]>> {
  const { seed, l2: requestedL2 } = options;
  const result = yield* runBounded(tensors, options.budget, function* (backend) {
    const prepared = yield* prepareTraining(backend, trainingSet, options);
    if (!prepared.ok) return prepared;
    const { featureSets, rows, l2Scale } = prepared.value;
    const selections = yield* selectEach(backend, featureSets, rows, {
      fixedL2: requestedL2 === "auto" ? null : requestedL2 / l2Scale,
      nearbyL2: nearbyL2 === null ? null : nearbyL2 / l2Scale,
      plan,
      seed,
      maxEvaluations: MAX_EVALUATIONS,
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
