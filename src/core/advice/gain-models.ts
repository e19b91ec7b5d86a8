/** Made by `npm run bench -- advice`: what fine-tuning adds, fitted on measured runs (gain.ts). */
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

export const gainModels: Readonly<Record<string, BackboneModels>> = {
  "text-use-1": {
    last_layers: {
      weights: [-0.008967, 0.00856, 0.01309],
      deviation: 0.01182,
      few: 0.04397,
    },
    all: {
      weights: [-0.001469, 0.001938, 0.003032],
      deviation: 0.004874,
      few: 0.1372,
    },
    gap: {
      weights: [0.001705, -0.002673, 0.002335],
      deviation: 0.01993,
      few: 0.1929,
    },
  },
  "text-static-1": {
    last_layers: {
      weights: [0.001657, 0.0008615, 0.0007987],
      deviation: 0.01252,
      few: 0,
    },
    all: {
      weights: [0.001086, 0.0009015, 0.0008443],
      deviation: 0.00809,
      few: 0,
    },
    gap: {
      weights: [-0.02547, 0.03959, 0.1063],
      deviation: 0.02795,
      few: 0.04969,
    },
  },
};
