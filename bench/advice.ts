/**
 * Whether advice is right:
 *
 *   npm run bench -- advice --data DIR [--only PATTERN] [--stored]
 *
 * DIR has labelled sets (shared/text-datasets.ts). Each part is a file of bench/advice:
 *
 *   method.ts   head or fine-tuning, on the runs that `npm run bench -- transfer` has stored. It also fits the model of
 *               what fine-tuning adds, and writes src/core/advice/gain-models.ts
 *   cost.ts     what a head's training takes
 *   labels.ts   how many wrong labels are found
 *   label-next.ts  inputs that label_next chooses, against inputs at random
 *   zero-shot.ts  heads from label names, beside those of a few examples
 *   explain.ts  the time of a prediction with an explanation against one without
 *
 * Each case is stored, so that an interrupted measurement resumes.
 */

import { costRows } from "./advice/cost.ts";
import { explainRows } from "./advice/explain.ts";
import { labelNextRows } from "./advice/label-next.ts";
import { labelRows } from "./advice/labels.ts";
import { methodRows } from "./advice/method.ts";
import { measureDraw } from "./advice/tasks.ts";
import { zeroShot } from "./advice/zero-shot.ts";
import { readOptions } from "./shared/options.ts";
import type { Row } from "./shared/report.ts";
import { readDraws } from "./transfer/draws.ts";
import { storedRuns } from "./transfer/stored.ts";

export async function run(): Promise<Row[]> {
  const { data, only, stored } = readOptions();
  const parts: Record<string, () => Promise<Row[]>> = {
    cost: () => costRows(data, stored),
    labels: () => labelRows(data, stored),
    method: async () => {
      const draws = readDraws(data).filter((draw) => storedRuns(draw).length > 0);
      if (!stored) for (const draw of draws) await measureDraw(draw);
      return methodRows(draws);
    },
    "label-next": () => labelNextRows(data, stored),
    "zero-shot": () => zeroShot(data, stored),
    explain: explainRows,
  };
  const rows: Row[] = [];
  for (const [name, measure] of Object.entries(parts)) if (new RegExp(only).test(name)) rows.push(...(await measure()));
  return rows;
}
