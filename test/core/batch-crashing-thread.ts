/** A thread that ends without a word, in the way that the job's tenant is called. */
import { workerData } from "node:worker_threads";
import type { Setup } from "../../src/batch/thread.ts";

const { tenant } = (workerData as Setup).submission;
if (tenant === "throws") throw new Error("told nobody");
if (tenant === "exits") process.exit(0);
const kept: string[][] = [];
for (;;) kept.push(Array.from({ length: 100_000 }, (_, i) => `${kept.length} ${i}`));
