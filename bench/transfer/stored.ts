import { readStored } from "../shared/cached.ts";
import type { Draw } from "./draws.ts";
import type { Method, Run } from "./run.ts";

export const BENCH = "transfer";

export const runName = ({ name }: Draw, method: Method) => `${name}, ${method}`;

/** The draw's runs that are stored. */
export const storedRuns = (draw: Draw) =>
  draw.methods.flatMap((method) => readStored<Run>(BENCH, runName(draw, method)) ?? []);
