/** A training on a sample, evaluated in full. */
export interface SampleTraining {
  readonly operations: number;
  readonly examples: number;
}

/** More rows take fewer folds and share the fixed costs (`npm run bench -- advice --only cost`). */
const EXPONENT = 0.75;

/** The operations of a training by default on so many examples: (n / sample)^0.75 times those on the sample. */
export function expectedOperations(sample: SampleTraining, examples: number): number {
  return sample.operations * (examples / Math.max(1, sample.examples)) ** EXPONENT;
}
