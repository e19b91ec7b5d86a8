/** Made by `npm run bench -- advice`: what fine-tuning adds, fitted on measured runs (gain.ts). */
export interface LinearModel {
  readonly weights: readonly number[];
  /** Of measured gains with very many examples, and how it rises as their number falls: few / √n. */
  readonly deviation: number;
  readonly few: number;
}

interface BackboneModels {
  readonly last_layers: LinearModel;
  readonly all: LinearModel;
  readonly gap: LinearModel;
}

export const gainModels: Readonly<Record<string, BackboneModels>> = {};
