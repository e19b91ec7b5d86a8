/** The constants of AdamW (Loshchilov and Hutter 2019), as its kernels take them. */
const BETA1 = 0.9;
const BETA2 = 0.999;
const EPSILON = 1e-8;

export const ADAM = [BETA1, BETA2, EPSILON] as const;

/** What the rate of step number `step`, from 1, is multiplied by: both moments begin at zero. */
export function biasCorrection(step: number): number {
  return Math.sqrt(1 - BETA2 ** step) / (1 - BETA1 ** step);
}
