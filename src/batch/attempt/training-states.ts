/** The state of the training of layers that is under way, in the checkpoint: a later attempt goes on from it. */
import type { StateStore } from "../../finetune/encoder/state.ts";
import type { Checkpoint, TrainingName } from "./checkpoint.ts";
import type { Reporter } from "./reporter.ts";

export interface TrainingStates {
  /** To be called when a training begins. */
  begin(name: TrainingName): OpenStates;
}

interface OpenStates extends StateStore {
  /** Uploads the results, if they have a state that was not uploaded. */
  save(): Promise<void>;
  /** To be called when the training has ended: its state is of no more use. */
  end(): void;
}

/**
 * @param operationsPerSave a state is kept where more operations would be lost without it: it may take a hundred megabytes
 * @param save uploads the results
 */
export function makeTrainingStates(
  results: Checkpoint,
  operationsPerSave: number,
  save: () => Promise<void>,
  report: Reporter["sendProgress"],
): TrainingStates {
  return {
    begin(name) {
      if (results.openTraining?.name !== name) results.openTraining = null;
      let lostOperations = 0;
      let isSaved = true;
      return {
        stored: () => results.openTraining?.state ?? null,
        onResume: (epoch) => report(`Goes on after epoch ${epoch}, from a checkpoint.`, {}),
        onEpochEnd(takeState, operations) {
          lostOperations += operations;
          if (lostOperations < operationsPerSave) return;
          lostOperations = 0;
          // The state before is freed before this one takes memory.
          results.openTraining = null;
          results.openTraining = { name, state: takeState() };
          isSaved = false;
        },
        async save() {
          if (isSaved) return;
          isSaved = true;
          await save();
        },
        end() {
          results.openTraining = null;
        },
      };
    },
  };
}
