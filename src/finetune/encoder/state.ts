/** The state of a training between two epochs, from which another run of the same training goes on to the same numbers. */
import type { Plan } from "../train.ts";
import type { EncoderNetwork } from "./network.ts";

export interface TrainingState {
  /** How many epochs are done. */
  readonly epoch: number;
  readonly steps: number;
  /** What `EncoderNetwork.state` answers. */
  readonly arrays: readonly Float32Array[];
  /** null if nothing is held out. */
  readonly best: BestEpoch | null;
}

/** The epoch that was best on the held-out texts. */
export interface BestEpoch {
  readonly loss: number;
  readonly plan: Plan;
  /** What `EncoderNetwork.snapshot` answered after it. */
  readonly snapshot: readonly Float32Array[];
}

/** Keeps the states of a training. */
export interface StateStore {
  /** What an earlier run left; null: nothing. */
  stored(): TrainingState | null;
  /** Is called if the training goes on from that, with the number of epochs that are done. */
  onResume(epoch: number): void;
  /** Is called after each epoch but the last, with the operations of its steps. */
  onEpochEnd(takeState: () => TrainingState, operations: number): void;
}

/**
 * Gives the network the state that an earlier run left. Answers how many epochs are done, and the best of them: 0 and null if
 * there is no state, or if it is of another training.
 */
export function resumeTraining(
  network: EncoderNetwork,
  states: StateStore | null,
  totalEpochs: number,
  stepsPerEpoch: number,
): Pick<TrainingState, "epoch" | "best"> {
  const state = states?.stored() ?? null;
  if (state === null || !isOfTraining(network, state, totalEpochs, stepsPerEpoch)) return { epoch: 0, best: null };
  network.resume(state.arrays, state.steps);
  states?.onResume(state.epoch);
  return { epoch: state.epoch, best: state.best };
}

function isOfTraining(
  network: EncoderNetwork,
  { epoch, steps, arrays, best }: TrainingState,
  totalEpochs: number,
  stepsPerEpoch: number,
): boolean {
  const isAlong = epoch < totalEpochs && steps === epoch * stepsPerEpoch;
  return isAlong && network.fits(arrays, "state") && (best === null || network.fits(best.snapshot, "snapshot"));
}
