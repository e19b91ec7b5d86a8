/**
 * Texts that hash-text-1 embeds a second on one core, against scikit-learn's HashingVectorizer with the same kinds of
 * n-grams (Debian's python3-sklearn), on the example tickets.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "csv-parse/sync";
import { encode } from "../src/backbones/hash-text.ts";
import { median, paired, type Row } from "./report.ts";

export const runs = 7;
const ROUND_MS = 1000;
const TARGET = 30_000;

function textsASecond(texts: readonly string[]): number {
  const start = performance.now();
  let done = 0;
  while (performance.now() - start < ROUND_MS) {
    for (const text of texts) encode(text);
    done += texts.length;
  }
  return (done * 1000) / (performance.now() - start);
}

/** Both take turns; the target is meant for texts of a sentence or two. */
export async function run(): Promise<Row[]> {
  const tickets = readFileSync(join(import.meta.dirname, "..", "examples", "support-tickets.csv"));
  const texts = (parse(tickets, { columns: true }) as { text: string }[]).map(({ text }) => text);
  const input = JSON.stringify([texts, ROUND_MS]);
  const peerScript = join(import.meta.dirname, "encode-peer.py");
  const ours: number[] = [];
  const peer: number[] = [];
  textsASecond(texts);
  for (let i = 0; i < runs; i++) {
    ours.push(textsASecond(texts));
    peer.push(Number(execFileSync("/usr/bin/python3", [peerScript], { input, encoding: "utf8" })));
  }
  const characters = Math.round(texts.reduce((sum, text) => sum + text.length, 0) / texts.length);
  const row: Row = {
    case: `hash-text-1, ${characters} characters a text`,
    measure: "texts a second",
    value: median(ours),
    unit: "1/s",
    peer: "scikit-learn HashingVectorizer, words 1–2 and characters 2–4",
    peer_value: median(peer),
    ...paired(ours, peer),
    target: `value ≥ ${TARGET}`,
    met: median(ours) >= TARGET,
  };
  return [row];
}
