import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { dirname } from "node:path";

/** A figure, beside a peer's if there is one. `ratio` is the median of paired runs, `spread` the lowest and highest. */
export interface Row {
  readonly case: string;
  readonly measure: string;
  readonly value: number;
  readonly unit: string;
  readonly peer: string | null;
  readonly peer_value: number | null;
  readonly ratio: number | null;
  readonly spread: readonly [number, number] | null;
  readonly target: string | null;
  readonly met: boolean | null;
}

/** A row. Fields that are not given are empty: no unit, no peer, no target. */
export function makeRow(fields: Pick<Row, "case" | "measure" | "value"> & Partial<Row>): Row {
  const { case: name, measure, value, unit = "", peer = null, peer_value = null } = fields;
  const { ratio = null, spread = null, target = null, met = null } = fields;
  return { case: name, measure, value, unit, peer, peer_value, ratio, spread, target, met };
}

/** What a measurement's file exports: how often each row is measured, by default once, and the measurement. */
export interface Bench {
  readonly runs?: number;
  readonly run: () => Promise<readonly Row[]>;
}

export function printTable(rows: readonly Row[]): void {
  const formatNumber = (value: number) =>
    value !== 0 && Math.abs(value) < 0.01 ? value.toExponential(1) : value.toFixed(Math.abs(value) < 10 ? 2 : 0);
  const cells = rows.map((row) => [
    row.case,
    row.measure,
    `${formatNumber(row.value)} ${row.unit}`.trim(),
    row.peer === null || row.peer_value === null ? "" : `${row.peer}: ${formatNumber(row.peer_value)}`,
    row.ratio === null ? "" : formatNumber(row.ratio),
    row.spread === null ? "" : row.spread.map(formatNumber).join(" … "),
    row.target ?? "",
    row.met === null ? "" : row.met ? "met" : "MISSED",
  ]);
  const table = [["case", "measure", "value", "peer", "ratio", "spread", "target", ""], ...cells];
  const widths = (table[0] ?? []).map((_, column) => Math.max(...table.map((line) => (line[column] ?? "").length)));
  for (const line of table)
    console.log(
      line
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    );
}

export function writeReport(file: string, name: string, runs: number, rows: readonly Row[]): void {
  const commit = execFileSync("git", ["rev-parse", "--short", "HEAD"], { encoding: "utf8" }).trim();
  const [cpu] = cpus();
  const machine = `${cpus().length} × ${cpu?.model.trim() ?? "unknown"}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`;
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify({ name, commit, machine, runs, rows }, null, 2)}\n`);
}
