/** How a head's versions do on live inputs. */
import type { TrafficReport, VersionTraffic } from "../../api/traffic.ts";
import { wilsonInterval } from "../../core/evaluation/metrics.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { windowSize } from "../../core/lifecycle/input-shift.ts";
import { largestShare, noTraffic, type TrafficCounts } from "../../core/lifecycle/traffic.ts";
import { toSeconds } from "../../lib/time.ts";
import { readSplit, type Split } from "./traffic.ts";
import { canNoticeShift, nameLabels, readReference, readShift, sumCounts, TRAFFIC_DAYS } from "./traffic-counts.ts";

const MAX_VERSIONS = 20;
const MAX_LABELS = 100;

export function getTrafficReport(sql: SqlStorage, name: string, now: number): Result<TrafficReport> {
  const row = sql
    .exec<{ id: number; active_version: number | null }>("SELECT id, active_version FROM heads WHERE name = ?", name)
    .toArray()[0];
  if (row === undefined) return fail("not_found", `No head '${name}'.`);
  const { id, active_version: active } = row;
  const split = readSplit(sql, id);
  const counts = sumCounts(sql, id, now);
  const inTraffic = [
    ...split.versions.map(({ version }) => version),
    ...split.shadow,
    ...(active === null ? [] : [active]),
  ];
  // Those that answer or shadow now come before others that have.
  const others = [...counts.keys()].filter((version) => !inTraffic.includes(version)).sort((a, b) => b - a);
  const shown = [...new Set([...inTraffic, ...others])].slice(0, MAX_VERSIONS).sort((a, b) => b - a);
  return ok({
    object: "head.traffic_report",
    id: name,
    active_version: active,
    days: TRAFFIC_DAYS,
    versions: shown.map((version) =>
      describeVersion(sql, { id, active, split }, version, counts.get(version) ?? noTraffic),
    ),
  });
}

interface HeadSplit {
  readonly id: number;
  readonly active: number | null;
  readonly split: Split;
}

function describeVersion(sql: SqlStorage, head: HeadSplit, version: number, counts: TrafficCounts): VersionTraffic {
  const { inputs } = counts;
  const reference = readReference(sql, head.id, version);
  const withConfidence = sum(inputs.confidence);
  const main = largestShare(head.split.versions)?.version ?? head.active;
  const agreement = main === null ? undefined : counts.agreement[main];
  const isAnswering = head.split.versions.length === 0 ? version === head.active : undefined;
  const share = head.split.versions.find((each) => each.version === version)?.share ?? 0;
  return {
    version,
    share: isAnswering === undefined ? share : Number(isAnswering),
    shadow: head.split.shadow.includes(version),
    predictions: inputs.inputs - counts.shadow_inputs,
    shadow_predictions: counts.shadow_inputs,
    shed: counts.shed,
    mean_confidence: withConfidence === 0 ? null : inputs.confidence_sum / withConfidence,
    confidence: [...inputs.confidence],
    scope: sum(inputs.scope) === 0 ? null : [...inputs.scope],
    unknown_words: sum(inputs.unknown_words) === 0 ? null : [...inputs.unknown_words],
    labels: listLabels(inputs.labels, reference.labels, inputs.inputs),
    agreement:
      main === null || agreement === undefined
        ? null
        : {
            version: main,
            inputs: agreement.inputs,
            share: agreement.agreed / agreement.inputs,
            interval: wilsonInterval(agreement.agreed / agreement.inputs, agreement.inputs),
          },
    feedback:
      counts.judged === 0
        ? null
        : {
            judged: counts.judged,
            hits: counts.hits,
            accuracy: counts.hits / counts.judged,
            accuracy_interval: wilsonInterval(counts.hits / counts.judged, counts.judged),
          },
    shift: describeShift(sql, head.id, version, reference),
  };
}

function listLabels(counts: TrafficCounts["inputs"]["labels"], names: readonly string[], inputs: number) {
  return Object.entries(counts)
    .flatMap(([index, count]) => {
      const label = names[Number(index)];
      return label === undefined ? [] : [{ label, inputs: count, share: count / inputs }];
    })
    .sort((a, b) => b.inputs - a.inputs)
    .slice(0, MAX_LABELS);
}

function describeShift(
  sql: SqlStorage,
  head: number,
  version: number,
  reference: ReturnType<typeof readReference>,
): VersionTraffic["shift"] {
  const { windows, open, figures, shift } = readShift(sql, head, version);
  const isComparable = canNoticeShift(reference);
  return {
    status: !isComparable ? "unknown" : shift !== null ? "detected" : windows === 0 ? "waiting" : "none",
    inputs: open.inputs,
    next_at: isComparable ? windowSize(windows) : null,
    since: shift === null ? null : toSeconds(shift.since),
    figures: figures.map((figure) => nameLabels(figure, reference.labels)),
    moved: shift?.moved.map(({ figure }) => figure) ?? [],
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
