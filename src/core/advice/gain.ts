/**
 * What fine-tuning is expected to add to a frozen head, by a linear model that is fitted on measured runs
 * (`npm run bench -- advice`; docs/which-method.md has its card):
 *
 *   gain = w · (1, s, e)     s = log₁₀ of the examples a label, by 10;  e = the error expected of the head
 *
 * A gain is a difference of accuracies.
 */
import { gainModels } from "./gain-models.ts";

export interface LinearModel {
  readonly weights: readonly number[];
  /** Of measured gains with very many examples; with n they deviate by √(deviation² + few² / n). */
  readonly deviation: number;
  readonly few: number;
}

interface BackboneModels {
  readonly last_layers: LinearModel;
  readonly all: LinearModel;
  /** How much more than the head's the gap between training and test accuracy is, of all layers. */
  readonly gap: LinearModel;
}

const models: Readonly<Record<string, BackboneModels>> = gainModels;

/** What is known of a task before anything is fine-tuned. */
export interface GainTask {
  readonly examples: number;
  readonly labels: number;
  /** The accuracy that is expected of the head with so many examples. */
  readonly headAccuracy: number;
}

export interface ExpectedGain {
  readonly value: number;
  /** The standard deviation of a measured gain around the expected one. */
  readonly deviation: number;
}

/** The backbones and layers that the models know. */
export type TrainedLayers = "last_layers" | "all";

export function gainFeatures({ examples, labels, headAccuracy }: GainTask): number[] {
  return [1, Math.log10(Math.max(1, examples) / Math.max(1, labels) / 10), 1 - headAccuracy];
}

/** The gain over the head on the test set; null for a backbone of which nothing was measured. */
export function expectGain(backbone: string, layers: TrainedLayers, task: GainTask): ExpectedGain | null {
  const model = models[backbone]?.[layers];
  return model === undefined ? null : predict(model, task);
}

/** How much more than the head's the gap between training and test accuracy is; null likewise. */
export function expectGap(backbone: string, task: GainTask): number | null {
  const model = models[backbone]?.gap;
  return model === undefined ? null : predict(model, task).value;
}

export function predict({ weights, deviation, few }: LinearModel, task: GainTask): ExpectedGain {
  const value = gainFeatures(task).reduce((sum, feature, i) => sum + feature * (weights[i] ?? 0), 0);
  // Measured gains of small sets vary more.
  return { value, deviation: Math.hypot(deviation, few / Math.sqrt(Math.max(1, task.examples))) };
}
