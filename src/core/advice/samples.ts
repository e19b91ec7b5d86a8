/** The samples of a data set that a measurement trains on. */

/** The most samples of a measurement. */
const MAX_SAMPLES = 3;
/** Fewer examples say little about either method. */
const MIN_EXAMPLES = 50;
const MIN_EXAMPLES_PER_LABEL = 2;

/** The fewest examples that a measurement takes. */
export function smallestSample(labels: number): number {
  return Math.max(MIN_EXAMPLES, MIN_EXAMPLES_PER_LABEL * labels);
}

/**
 * The sizes of the samples, ascending: of all examples, a half, a quarter and so on, the largest ones that take at most
 * `maxSeconds` together, three at most. None if not even the smallest sample fits.
 *
 * @param secondsOf what the measurement on so many examples takes
 */
export function chooseSamples(
  examples: number,
  labels: number,
  maxSeconds: number,
  secondsOf: (examples: number) => number,
): number[] {
  const smallest = smallestSample(labels);
  const sizes: number[] = [];
  let secondsLeft = maxSeconds;
  for (let size = examples; size >= smallest && sizes.length < MAX_SAMPLES; size = nextSize(size, smallest)) {
    const seconds = secondsOf(size);
    if (seconds > secondsLeft) continue;
    secondsLeft -= seconds;
    sizes.unshift(size);
  }
  return sizes;
}

/** The half, or the smallest sample before it is passed; 0 after that. */
function nextSize(size: number, smallest: number): number {
  return size <= smallest ? 0 : Math.max(smallest, Math.floor(size / 2));
}
