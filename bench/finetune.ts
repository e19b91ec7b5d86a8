/**
 * Full fine-tuning of text-use-1:
 *
 *   npm run bench -- finetune --data DIR [--only PATTERN] [--rows [PATTERN=]N] [--stored]
 *
 * DIR has labelled sets (shared/text-datasets.ts). Through the Worker and the batch endpoint as processes it measures test
 * accuracy and calibration of the frozen head, of the fine-tuned model and of what `if_better` keeps, beside the gain that
 * the job expected, against fastText (Debian's) and TF-IDF with a linear SVM (Debian's python3-sklearn), with few examples
 * and with all; the time and memory of a job; the first prediction with a cold delta. In workerd it measures the time of an
 * embedding. Each case is stored, so that an interrupted measurement resumes. The shortest come first.
 */
import { accuracyCases, summaryRows } from "./finetune/accuracy.ts";
import { type Case, type Context, makeContext } from "./finetune/case.ts";
import { costCases } from "./finetune/cost.ts";
import { readOptions } from "./shared/options.ts";
import type { Row } from "./shared/report.ts";
import { OPERATIONS_PER_SECOND } from "./shared/training-work.ts";

export const runs = 1;

export async function run(): Promise<Row[]> {
  const { only, stored } = readOptions();
  const accuracies = accuracyCases();
  const cases = [...accuracies, ...costCases()]
    .filter(({ name }) => new RegExp(only).test(name))
    .sort((a, b) => a.operations - b.operations);
  const storedRows = await Promise.all(cases.map((each) => each.measure(null)));
  const minutesOf = ({ operations }: Case) => operations / OPERATIONS_PER_SECOND / 60;
  for (const [i, each] of cases.entries())
    console.error(`${each.name}: ${storedRows[i] ? "stored" : `about ${minutesOf(each).toFixed(1)} minutes`}`);
  const rows = storedRows.flatMap((each) => each ?? []);
  const open = cases.filter((_, i) => storedRows[i] === null);
  const minutes = open.reduce((sum, each) => sum + minutesOf(each), 0);
  console.error(`${open.length} of ${cases.length} cases to measure: about ${minutes.toFixed(0)} minutes`);
  if (open.length > 0 && !stored) {
    const context = makeContext();
    try {
      for (const each of open) rows.push(...(await measureCase(each, context)));
    } finally {
      await context.close();
    }
  }
  return [...rows, ...summaryRows(accuracies.filter((each) => cases.includes(each)))];
}

/** A case that fails costs the others nothing, and is measured again the next time. */
async function measureCase(each: Case, context: Context): Promise<Row[]> {
  try {
    return (await each.measure(context)) ?? [];
  } catch (error) {
    console.error(`${each.name} failed:`, error);
    return [];
  }
}
