/**
 * What isolates have counted of the predictions of a head's versions, a row a version and day. An isolate writes its counts
 * in numbered batches; a batch that comes again changes nothing. Served inputs also go to the version's windows, in which
 * they are compared with those held out at its training (core/lifecycle/input-shift.ts).
 */
import type { Evaluation } from "../../api/heads.ts";
import { addInputCounts, type InputCounts } from "../../core/evaluation/input-counts.ts";
import { compareInputs, type FigureShift } from "../../core/evaluation/input-shift.ts";
import { ok, type Result } from "../../core/failure.ts";
import { countInputs, initialShiftState, type ShiftState } from "../../core/lifecycle/input-shift.ts";
import { addTraffic, noTraffic, type TrafficCounts } from "../../core/lifecycle/traffic.ts";
import { DAY_SECONDS } from "../../lib/time.ts";
import { emit } from "../hooks/events.ts";

export const TRAFFIC_DAYS = 30;
/** No isolate sends a batch again so long after it has counted it. */
const WRITER_MS = 3_600_000;

export interface VersionCounts {
  readonly head: string;
  readonly version: number;
  /** Of the version's bytes: a head of the same name may be another one by now. */
  readonly sha256: string;
  readonly counts: TrafficCounts;
}

export interface CountBatch {
  /** The isolate that counted. */
  readonly writer: string;
  /** Rises with each batch of a writer. */
  readonly number: number;
  readonly versions: readonly VersionCounts[];
}

/** Adds a batch, unless it was added before. */
export function recordCounts(sql: SqlStorage, { writer, number, versions }: CountBatch, now: number): Result<null> {
  sql.exec("DELETE FROM count_writers WHERE written_at < ?", now - WRITER_MS);
  const last = sql.exec<{ batch: number }>("SELECT batch FROM count_writers WHERE writer = ?", writer).toArray()[0];
  if (last !== undefined && last.batch >= number) return ok(null);
  sql.exec("INSERT OR REPLACE INTO count_writers (writer, batch, written_at) VALUES (?, ?, ?)", writer, number, now);
  for (const { head: name, version, sha256, counts } of versions) {
    const head = sql
      .exec<{ id: number }>(
        "SELECT id FROM heads JOIN head_versions ON head = id WHERE name = ? AND version = ? AND sha256 = ?",
        name,
        version,
        sha256,
      )
      .toArray()[0];
    if (head === undefined) continue;
    addCounts(sql, head.id, version, counts, now);
    if (counts.inputs.inputs > counts.shadow_inputs)
      addToWindow(sql, { id: head.id, name }, version, counts.inputs, now);
  }
  return ok(null);
}

export function addCounts(sql: SqlStorage, head: number, version: number, counts: TrafficCounts, now: number): void {
  const day = dayOf(now);
  const row = sql
    .exec<{ counts: string }>(
      "SELECT counts FROM traffic_counts WHERE head = ? AND version = ? AND day = ?",
      head,
      version,
      day,
    )
    .toArray()[0];
  const sum = addTraffic(row === undefined ? noTraffic : parseCounts(row.counts), counts);
  sql.exec(
    "INSERT OR REPLACE INTO traffic_counts (head, version, day, counts) VALUES (?, ?, ?, ?)",
    ...[head, version, day, JSON.stringify(sum)],
  );
}

function dayOf(now: number): number {
  return Math.floor(now / 1_000 / DAY_SECONDS);
}

/** A field that an older build did not count is as it is without counts. */
function parseCounts(json: string): TrafficCounts {
  return { ...noTraffic, ...(JSON.parse(json) as Partial<TrafficCounts>) };
}

/** Examples that came as feedback, and how many a version predicts right that was trained before. */
export function countFeedback(
  sql: SqlStorage,
  name: string,
  version: number,
  outcomes: readonly boolean[],
  now: number,
): void {
  const head = sql
    .exec<{ id: number }>(
      "SELECT id FROM heads JOIN head_versions ON head = id WHERE name = ? AND version = ?",
      name,
      version,
    )
    .toArray()[0];
  if (head === undefined) return;
  const hits = outcomes.filter((isCorrect) => isCorrect).length;
  addCounts(sql, head.id, version, { ...noTraffic, judged: outcomes.length, hits }, now);
}

interface Reference {
  readonly labels: readonly string[];
  /** Null where the version was trained before inputs were counted, or nothing was held out. */
  readonly inputs: InputCounts | null;
}

export function readReference(sql: SqlStorage, head: number, version: number): Reference {
  const { labels, inputs } = sql
    .exec<{ labels: string; inputs: string | null }>(
      "SELECT json_extract(record, '$.labels') AS labels, json_extract(record, '$.evaluation.held_out_inputs') AS inputs FROM head_versions WHERE head = ? AND version = ?",
      head,
      version,
    )
    .one();
  return {
    labels: JSON.parse(labels) as string[],
    inputs: inputs === null ? null : (JSON.parse(inputs) as NonNullable<Evaluation["held_out_inputs"]>),
  };
}

export function readShift(sql: SqlStorage, head: number, version: number): ShiftState {
  const row = sql
    .exec<{ state: string }>("SELECT state FROM input_shifts WHERE head = ? AND version = ?", head, version)
    .toArray()[0];
  return row === undefined ? initialShiftState : { ...initialShiftState, ...(JSON.parse(row.state) as ShiftState) };
}

function addToWindow(
  sql: SqlStorage,
  head: { readonly id: number; readonly name: string },
  version: number,
  inputs: InputCounts,
  now: number,
): void {
  const reference = readReference(sql, head.id, version);
  if (reference.inputs === null) return;
  const before = readShift(sql, head.id, version);
  const { state, isNew } = countInputs(before, inputs, reference.inputs, reference.labels.length, now);
  sql.exec(
    "INSERT OR REPLACE INTO input_shifts (head, version, state) VALUES (?, ?, ?)",
    ...[head.id, version, JSON.stringify(state)],
  );
  if (!isNew) return;
  const moved = state.shift?.moved.map((figure) => nameLabels(figure, reference.labels)) ?? [];
  const data = { id: head.name, object: "head", version, reason: "inputs" };
  emit(sql, "head.drifting", { ...data, inputs: addInputCounts(before.open, inputs).inputs, moved }, now);
}

/** A figure with its labels by name, in the place of their index. */
export function nameLabels(
  { labels: moved, ...figure }: FigureShift,
  labels: readonly string[],
): Omit<FigureShift, "labels"> & { labels?: { label: string; before: number; after: number }[] } {
  if (moved === undefined) return figure;
  return {
    ...figure,
    labels: moved.flatMap(({ index, ...shares }) => {
      const label = labels[index];
      return label === undefined ? [] : [{ label, ...shares }];
    }),
  };
}

/** What was counted of each version of a head in the last 30 days. */
export function sumCounts(sql: SqlStorage, head: number, now: number): Map<number, TrafficCounts> {
  const sums = new Map<number, TrafficCounts>();
  for (const { version, counts } of sql.exec<{ version: number; counts: string }>(
    "SELECT version, counts FROM traffic_counts WHERE head = ? AND day > ?",
    head,
    dayOf(now) - TRAFFIC_DAYS,
  ))
    sums.set(version, addTraffic(sums.get(version) ?? noTraffic, parseCounts(counts)));
  return sums;
}

/** Whether a version has a reference that is large enough. */
export function canNoticeShift({ inputs, labels }: Reference): boolean {
  return inputs !== null && compareInputs(inputs, inputs, labels.length).length > 0;
}

export function deleteHeadTraffic(sql: SqlStorage, head: number): void {
  for (const table of ["head_traffic", "traffic_counts", "input_shifts"])
    sql.exec(`DELETE FROM ${table} WHERE head = ?`, head);
}

/** Deletes counts older than 30 days, and the windows of versions that have had no inputs since. */
export function deleteOldCounts(sql: SqlStorage, now: number): void {
  sql.exec("DELETE FROM traffic_counts WHERE day <= ?", dayOf(now) - TRAFFIC_DAYS);
  sql.exec(
    "DELETE FROM input_shifts WHERE NOT EXISTS (SELECT 1 FROM traffic_counts WHERE head = input_shifts.head AND version = input_shifts.version)",
  );
  sql.exec("DELETE FROM count_writers WHERE written_at < ?", now - WRITER_MS);
}
