/**
 * The speed and the memory of the built-in backbones on one core, with the example tickets and the texts of DIR/test.csv:
 *
 *   npm run bench -- encode [--data DIR]
 *
 * hash-text-1 runs in Node, against scikit-learn's HashingVectorizer with the same kinds of n-grams (Debian's
 * python3-sklearn). text-static-1 runs in workerd: texts a second, and the first embedding in a fresh isolate, which reads
 * the table. Its memory is measured in Node, because workerd does not report it.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { parse } from "csv-parse/sync";
import { encode } from "../src/backbones/hash-text.ts";
import { textStatic } from "../src/backbones/node.ts";
import { seededRandom } from "../src/core/random.ts";
import { buildWorker, serve } from "../src/server/runtime.ts";
import { measureMemory } from "./shared/memory.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { median, pairedRatio } from "./shared/statistics.ts";

export const runs = 7;
const ROUND_MS = 1000;
const MIN_TEXTS_PER_SECOND = 30_000;
const MAX_FIRST_EMBEDDING_MS = 60;
const MAX_MEMORY_MB = 24;
const LONGEST_TEXT = 32_768;

function readTexts(file: string): string[] {
  return (parse(readFileSync(file), { columns: true }) as { text: string }[]).map(({ text }) => text);
}

function meanLength(texts: readonly string[]): number {
  return Math.round(texts.reduce((sum, text) => sum + text.length, 0) / texts.length);
}

/** Texts a second of hash-text-1 and of scikit-learn, in alternating runs. */
function measureHashText(texts: readonly string[]): Row {
  const measureThroughput = () => {
    const start = performance.now();
    let done = 0;
    while (performance.now() - start < ROUND_MS) {
      for (const text of texts) encode(text);
      done += texts.length;
    }
    return (done * 1000) / (performance.now() - start);
  };
  const input = JSON.stringify([texts, ROUND_MS]);
  const peerScript = join(import.meta.dirname, "peers", "encode.py");
  const ours: number[] = [];
  const peers: number[] = [];
  measureThroughput();
  for (let i = 0; i < runs; i++) {
    ours.push(measureThroughput());
    peers.push(Number(execFileSync("/usr/bin/python3", [peerScript], { input, encoding: "utf8" })));
  }
  return {
    case: `hash-text-1, ${meanLength(texts)} characters a text`,
    measure: "texts a second",
    value: median(ours),
    unit: "1/s",
    peer: "scikit-learn HashingVectorizer, words 1–2 and characters 2–4",
    peer_value: median(peers),
    ...pairedRatio(ours, peers),
    target: `value ≥ ${MIN_TEXTS_PER_SECOND}`,
    met: median(ours) >= MIN_TEXTS_PER_SECOND,
  };
}

/** Each run starts a fresh isolate and measures its first embedding, then each set of texts. */
async function measureTextStatic(sets: readonly (readonly string[])[]): Promise<Row[]> {
  const folder = mkdtempSync(join(tmpdir(), "bench-encode-"));
  const firstEmbeddingTimes: number[] = [];
  const rates: number[][] = sets.map(() => []);
  const longTextRates: number[] = [];
  const random = seededRandom(1);
  const letters = () => String.fromCharCode(97 + Math.floor(26 * random()));
  const longText = Array.from({ length: LONGEST_TEXT }, letters).join("");
  try {
    await buildWorker(join(folder, "worker"), join(import.meta.dirname, "workers", "encode.ts"));
    for (let i = 0; i < runs; i++) {
      console.error(`isolate ${i + 1} of ${runs} …`);
      const options = {
        port: 0,
        stateDir: join(folder, `state-${i}`),
        adminKey: "",
        log: () => undefined,
        exposeRuntime: true,
      };
      const worker = await serve(join(folder, "worker"), options);
      const embed = async (texts: readonly string[], milliseconds: number) => {
        const body = JSON.stringify({ texts, milliseconds });
        const answer = await fetch(worker.url, { method: "POST", body });
        return (await answer.json()) as { done: number; elapsed: number };
      };
      try {
        firstEmbeddingTimes.push((await embed(["hello"], 0)).elapsed);
        for (const [s, texts] of sets.entries()) {
          await embed(texts, ROUND_MS);
          const { done, elapsed } = await embed(texts, ROUND_MS);
          rates[s]?.push((done * 1000) / elapsed);
        }
        const { done, elapsed } = await embed([longText], ROUND_MS);
        longTextRates.push((done * LONGEST_TEXT) / (elapsed * 1000));
      } finally {
        await worker.stop();
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  return [
    ...sets.map((texts, s): Row => {
      const value = median(rates[s] ?? []);
      const name = `text-static-1, ${meanLength(texts)} characters a text`;
      const target = { target: `value ≥ ${MIN_TEXTS_PER_SECOND}`, met: value >= MIN_TEXTS_PER_SECOND };
      return makeRow({ case: name, measure: "texts a second", value, unit: "1/s", ...target });
    }),
    makeRow({
      case: `text-static-1, one unknown word of ${LONGEST_TEXT} letters`,
      measure: "MB of text a second",
      value: median(longTextRates),
      unit: "MB/s",
    }),
    makeRow({
      case: "text-static-1, fresh isolate",
      measure: "first embedding",
      value: median(firstEmbeddingTimes),
      unit: "ms",
      target: `value ≤ ${MAX_FIRST_EMBEDDING_MS}`,
      met: median(firstEmbeddingTimes) <= MAX_FIRST_EMBEDDING_MS,
    }),
  ];
}

/** The size of the files, and the memory that the first embedding adds. */
async function measureTableMemory(): Promise<Row> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const before = await measureMemory(collect);
  await textStatic.embed(["hello"]);
  const value = (textStatic.bytes + (await measureMemory(collect)) - before) / 1e6;
  const target = { target: `value ≤ ${MAX_MEMORY_MB}`, met: value <= MAX_MEMORY_MB };
  return makeRow({ case: "text-static-1, table and vocabulary", measure: "bytes held", value, unit: "MB", ...target });
}

/** The targets are meant for texts of a sentence or two. */
export async function run(): Promise<Row[]> {
  const { values } = parseArgs({
    allowPositionals: true,
    options: { json: { type: "string" }, data: { type: "string" } },
  });
  const tickets = readTexts(join(import.meta.dirname, "..", "examples", "support-tickets.csv"));
  const sets = values.data === undefined ? [tickets] : [tickets, readTexts(join(values.data, "test.csv"))];
  const memoryRow = await measureTableMemory();
  return [measureHashText(tickets), ...(await measureTextStatic(sets)), memoryRow];
}
