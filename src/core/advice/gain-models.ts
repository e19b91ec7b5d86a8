/** Made by `npm run bench -- advice`: what fine-tuning adds, fitted on measured runs (gain.ts). */
export const gainModels = {
  "text-use-1": {
    last_layers: {
      weights: [-0.008695, 0.008551, 0.01254],
      deviation: 0.01172,
      few: 0.04442,
    },
    all: {
      weights: [-0.001495, 0.001952, 0.003155],
      deviation: 0.004856,
      few: 0.1372,
    },
    gap: {
      weights: [0.001723, -0.002683, 0.002263],
      deviation: 0.01993,
      few: 0.1929,
    },
  },
  "text-static-1": {
    last_layers: {
      weights: [0.001419, 0.0009292, 0.001931],
      deviation: 0.01254,
      few: 0,
    },
    all: {
      weights: [0.001321, 0.0008618, -0.0003254],
      deviation: 0.008092,
      few: 0,
    },
    gap: {
      weights: [-0.02544, 0.03963, 0.1092],
      deviation: 0.02747,
      few: 0.05803,
    },
  },
};
