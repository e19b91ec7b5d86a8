/** What goes into a training and what comes out of it. */
import type { ConfusedPair } from "../evaluation/confused.ts";
import type { Evaluation } from "../evaluation/evaluation.ts";
import type { Head, Task } from "../head.ts";
import type { RowSketch } from "../sketch.ts";
import type { Matrix } from "../tensors.ts";
import type { LexicalFeatures } from "../text/lexical-reader.ts";
import type { Targets } from "./targets.ts";

export interface TrainingSet {
  readonly task: Task;
  readonly dimensions: number;
  /** Empty for regression. */
  readonly labels: readonly string[];
  /**
   * The embeddings as row blocks in order, each rows × dimensions. A training frees each block once it is copied. The
   * caller frees them all in any case.
   */
  readonly features: readonly Matrix[];
  readonly targets: Targets;
  /** Rows with the same group have the same input. A split never separates them. */
  readonly groups: Int32Array;
  /** The texts' lexical features. Null if the inputs are no texts or the head must not have any. */
  readonly lexical?: LexicalFeatures | null;
  /**
   * So many of the last rows are texts of labels (text/label-texts.ts). They are always trained on, and count neither as
   * examples nor in an evaluation.
   */
  readonly labelTexts?: number;
}

/** The rows of a training set as the stages of a training use them. */
export interface TrainingRows {
  /** Values are centred. */
  readonly targets: Targets;
  readonly outputs: number;
  /** Zero for rows that are never trained on. */
  readonly weights: Float64Array;
  /** Each row's class: every fold has its share of it. */
  readonly strata: Int32Array;
  readonly groups: Int32Array;
  /** So many of the last rows are texts of labels. */
  readonly labelTexts: number;
  /** The fold in which each row is held out, or −1. A holdout is fold 0. */
  readonly folds: Int32Array;
  readonly foldCount: number;
}

export interface TrainingOptions {
  /** λ in Σ s_i ℓ_i + (λ/2)‖W‖², on the features as given. It is scikit-learn's 1 / C, and Ridge's alpha. */
  readonly l2: "auto" | number;
  readonly classWeight: "balanced" | null;
  readonly seed: number;
  /**
   * Whether the head uses the set's lexical features beside the embeddings. `auto` (the default) uses them if they
   * predict held-out examples better.
   */
  readonly lexical?: "auto" | boolean;
  /** Regression: whether outputs are clamped to the range of the values trained on. */
  readonly clamp?: boolean;
  /** The share of inputs in scope that the head's threshold keeps (0.97 by default). */
  readonly inScopeRecall?: number | undefined;
  /** `folds` of cross-validation (5 by default), `fraction` of a holdout (0.2 by default). */
  readonly evaluation: {
    readonly method: "auto" | "cross_validation" | "holdout" | "none";
    readonly folds?: number;
    readonly fraction?: number;
    /** How much is measured: `full` adds a learning curve. `summary` by default. */
    readonly detail?: "summary" | "full";
  };
  /** Upper bounds: floating-point operations, and bytes of arrays alive at once. */
  readonly budget: Cost;
  /** A fit stops when its estimated relative gap (f − f*) / f is below this. */
  readonly tolerance?: number;
  /**
   * Called after each step of the final fit on all rows, with the objective, which never rises, and the operations done
   * so far.
   */
  readonly onStep?: (objective: number, operations: number) => void;
}

/** What a training costs at most: floating-point operations, and bytes of arrays alive at once. */
export interface Cost {
  readonly operations: number;
  readonly bytes: number;
}

/** What is known of a training set before it is read. */
export interface TrainingShape {
  readonly task: Task;
  readonly examples: number;
  readonly dimensions: number;
  readonly outputs: number;
  /** Text that a local backbone may have to embed first, in bytes of UTF-8. */
  readonly textBytes?: number;
  /**
   * The columns of the lexical features, their entries at most, and the text to read for them first, in bytes of UTF-8.
   * Null if there are none.
   */
  readonly lexical?: { readonly columns: number; readonly entries: number; readonly textBytes?: number } | null;
}

export interface TrainingSummary {
  readonly examples: number;
  readonly iterations: number;
  readonly converged: boolean;
  readonly objective: number;
  readonly l2: number;
  readonly temperature: number;
  readonly lexical: boolean;
  readonly operations: number;
}

export interface TrainingResult {
  readonly head: Head;
  readonly training: TrainingSummary;
  readonly evaluation: Evaluation;
  /** Rows of the training set. */
  readonly confused: readonly ConfusedPair[];
  readonly sketch: RowSketch;
}
