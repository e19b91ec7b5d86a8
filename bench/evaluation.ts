/**
 * Whether the figures of evaluations hold, and what heads refuse:
 *
 *   npm run bench -- evaluation --data DIR [--only PATTERN] [--stored]
 *
 * DIR has labelled sets (shared/text-datasets.ts). Heads are trained in Node at the defaults of a training, on text-use-1,
 * and what the trainings say is compared with test texts:
 *
 *   evaluation/accuracy.ts   accuracy_estimate, calibration, conformal sets and the accuracy expected of more examples
 *   evaluation/draws.ts      accuracy_estimate and its interval over many small samples
 *   evaluation/scope.ts      what is refused of inputs that belong to no label
 *   evaluation/time.ts       the time of an evaluation
 *
 * Each case is stored, so that an interrupted measurement resumes. The shortest come first. The rows are those of all
 * stored cases.
 */
import { accuracyTopic } from "./evaluation/accuracy.ts";
import type { Case } from "./evaluation/case.ts";
import { fewTopic, resamplesTopic } from "./evaluation/draws.ts";
import { embeddingSeconds, isEmbedded } from "./evaluation/embeddings.ts";
import { clincTopic, offTopicTopic } from "./evaluation/scope.ts";
import { readSets } from "./evaluation/sets.ts";
import { timeTopic } from "./evaluation/time.ts";
import { readOptions } from "./shared/options.ts";
import { makeRow, type Row } from "./shared/report.ts";

const MAX_HOURS = 4;

export async function run(): Promise<Row[]> {
  const { data, only, stored } = readOptions();
  const sets = readSets(data);
  const topics = [
    accuracyTopic(sets),
    resamplesTopic(sets),
    fewTopic(sets),
    clincTopic(sets, data),
    offTopicTopic(),
    timeTopic(sets),
  ];
  const cases = topics.flatMap((topic) => topic.cases);
  const open = cases
    .filter((each) => new RegExp(only).test(each.name) && each.stored() === null)
    .sort((a, b) => secondsOf(a) - secondsOf(b));
  for (const each of open) console.error(`${each.name}: about ${secondsOf(each).toFixed(0)} s`);
  console.error(`${open.length} of ${cases.length} cases to measure: about ${hoursOf(open).toFixed(2)} CPU-hours`);
  for (const each of stored ? [] : open) await measure(each);
  const hours = hoursOf(cases);
  return [
    makeRow({
      case: "all",
      measure: "CPU time, estimated",
      value: hours,
      unit: "h",
      target: `≤ ${MAX_HOURS}`,
      met: hours <= MAX_HOURS,
    }),
    makeRow({
      case: "all",
      measure: "cases measured",
      value: cases.filter((each) => each.stored() !== null).length,
      unit: `of ${cases.length}`,
    }),
    ...topics.flatMap((topic) => topic.rows()),
  ];
}

/** With the embeddings that are not there yet. */
function secondsOf({ files, seconds }: Case): number {
  return seconds + sum(files.filter((file) => !isEmbedded(file)).map(embeddingSeconds));
}

/** Each file is embedded once. */
function hoursOf(cases: readonly Case[]): number {
  const files = new Map(cases.flatMap((each) => each.files.map((file) => [file.name, file])));
  return (sum(cases.map(({ seconds }) => seconds)) + sum([...files.values()].map(embeddingSeconds))) / 3600;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** A case that fails costs the others nothing, and is measured again the next time. */
async function measure({ name, measure: run }: Case): Promise<void> {
  const started = process.cpuUsage();
  try {
    const result = await run();
    const { user, system } = process.cpuUsage(started);
    console.error(`${name}: ${((user + system) / 1e6).toFixed(1)} s, ${JSON.stringify(result)}`);
  } catch (error) {
    console.error(`${name} failed:`, error);
  }
}
