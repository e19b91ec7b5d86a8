/**
 * A long computation in steps. It yields the floating-point operations done since its last yield, and returns its
 * result.
 */
export type Steps<T> = Generator<number, T, void>;

/** What a number costs that is read or copied by JavaScript, outside a product, in operations of a product. */
export const OPERATIONS_PER_COPIED_NUMBER = 130;

/**
 * Runs `steps` to the end and awaits `pause` about every `yieldEvery` operations, so that other work gets its turn: sooner
 * where another step like the last would take more of them beyond than are left. If `pause` resolves to a value, the run
 * stops there and that value is the result. `operations` counts what was done until then. Towards `yieldEvery` a step
 * counts at least `minStepOperations`: many of few operations take time as well.
 */
export async function runSteps<T>(
  steps: Steps<T>,
  yieldEvery: number,
  pause: () => Promise<T | undefined> | Promise<void>,
  minStepOperations = 0,
): Promise<{ readonly value: T; readonly operations: number }> {
  let operations = 0;
  let operationsSincePause = 0;
  for (;;) {
    const step = steps.next();
    if (step.done) return { value: step.value, operations };
    operations += step.value;
    const stepOperations = Math.max(step.value, minStepOperations);
    operationsSincePause += stepOperations;
    if (operationsSincePause + stepOperations / 2 < yieldEvery) continue;
    operationsSincePause = 0;
    const stopped = await pause();
    if (stopped !== undefined) return { value: stopped, operations };
  }
}
