import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { dirname } from "node:path";

/** One figure, beside a peer's where there is one: `ratio` is the median of paired runs' ratios, `spread` their least and most. */
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

/** For a figure that stands alone. */
export const noPeer = { peer: null, peer_value: null, ratio: null, spread: null };

/** What a file of bench/ exports: how often each row was measured (once if it does not say), and the measurement. */
export interface Bench {
  readonly runs?: number;
  readonly run: () => Promise<readonly Row[]>;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? Number.NaN)
    : ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
}

/** Paired runs as a ratio and its spread. */
export function pairedRatio(
  values: readonly number[],
  peers: readonly number[],
): { ratio: number; spread: [number, number] } {
  const ratios = values.map((value, i) => value / (peers[i] ?? Number.NaN));
  return { ratio: median(ratios), spread: [Math.min(...ratios), Math.max(...ratios)] };
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
