import type { Head } from "../../src/core/head.ts";

/** A head without lexical features or calibration. */
export function linearHead(model: Pick<Head, "task" | "labels" | "dimensions" | "weights" | "bias">): Head {
  return {
    ...model,
    lexical: null,
    offset: 0,
    temperature: 1,
    outOfScopeThreshold: null,
    scope: null,
    thresholds: [],
    valueRange: null,
    visibleText: true,
    sections: [],
    conformal: new Float32Array(0),
  };
}
