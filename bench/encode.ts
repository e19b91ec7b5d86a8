/**
 * The speed and the memory of the built-in backbones on one core, with the example tickets and the texts of DIR/test.csv:
 *
 *   npm run bench -- encode [--data DIR]
 *
 * hash-text-1 runs in Node, against scikit-learn's HashingVectorizer with the same kinds of n-grams (Debian's
 * python3-sklearn). The backbones with weights run in workerd: texts a second, and the first embedding in a fresh isolate,
 * which reads the weights. Their memory is measured in Node, because workerd does not report it.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { Backbone } from "../src/backbones/backbone.ts";
import { encode } from "../src/backbones/hash-text.ts";
import { textStatic, textUse } from "../src/backbones/node.ts";
import { seededRandom } from "../src/core/random.ts";
import { buildWorker, serve } from "../src/server/runtime.ts";
import { measureMemory } from "./shared/memory.ts";
import { readOptions } from "./shared/options.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { median, pairedRatio, spreadOf } from "./shared/statistics.ts";
import { readTexts } from "./shared/text-datasets.ts";
import type { EncodeRequest } from "./workers/encode.ts";

export const runs = 7;
const ROUND_MS = 1000;
const MIN_TEXTS_PER_SECOND = 30_000;
const MAX_FIRST_EMBEDDING_MS: Record<string, number> = { "text-static-1": 60, "text-use-1": 120 };
const LONGEST_TEXT = 32_768;

const textsOf = (file: string) => readTexts(file).map(({ text }) => text);

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

/** One measurement in an isolate: these texts, so many at a time. `unit` says what is shown of their rate. */
interface EncodeCase {
  readonly id: string;
  readonly name: string;
  readonly texts: readonly string[];
  readonly batch: number;
  readonly unit: "1/s" | "MB/s" | "ms";
  readonly target?: number;
}

/** Each run starts a fresh isolate a backbone and measures its first embedding, then each case. */
async function measureInWorkerd(cases: readonly EncodeCase[]): Promise<Row[]> {
  const folder = mkdtempSync(join(tmpdir(), "bench-encode-"));
  const ids = [...new Set(cases.map(({ id }) => id))];
  const firstTimes = new Map<string, number[]>(ids.map((id) => [id, []]));
  const values = new Map<EncodeCase, number[]>(cases.map((each) => [each, []]));
  try {
    await buildWorker(join(folder, "worker"), join(import.meta.dirname, "workers", "encode.ts"));
    for (let i = 0; i < runs; i++) {
      console.error(`isolate ${i + 1} of ${runs} …`);
      for (const id of ids) {
        const options = {
          port: 0,
          stateDir: join(folder, `state-${id}-${i}`),
          adminKey: "",
          log: () => undefined,
          exposeRuntime: true,
        };
        const worker = await serve(join(folder, "worker"), options);
        const embed = async (request: Omit<EncodeRequest, "id">) => {
          const answer = await fetch(worker.url, { method: "POST", body: JSON.stringify({ id, ...request }) });
          return (await answer.json()) as { done: number; elapsed: number };
        };
        try {
          firstTimes.get(id)?.push((await embed({ texts: ["hello"], batch: 1, milliseconds: 0 })).elapsed);
          for (const each of cases.filter((one) => one.id === id)) {
            const { texts, batch, unit } = each;
            await embed({ texts, batch, milliseconds: ROUND_MS });
            const { done, elapsed } = await embed({ texts, batch, milliseconds: ROUND_MS });
            const megabytes = ((done / texts.length) * texts.join("").length) / 1e6;
            const value = { "1/s": (done * 1000) / elapsed, "MB/s": (megabytes * 1000) / elapsed, ms: elapsed / done };
            values.get(each)?.push(value[unit]);
          }
        } finally {
          await worker.stop();
        }
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  const measures = { "1/s": "texts a second", "MB/s": "MB of text a second", ms: "a text" };
  return [
    ...cases.map((each): Row => {
      const { id, name, unit, target } = each;
      const all = values.get(each) ?? [];
      const value = median(all);
      const isTime = unit === "ms";
      return makeRow({
        case: `${id}, ${name}`,
        measure: measures[unit],
        value,
        unit,
        spread: spreadOf(all),
        target: target === undefined ? null : `value ${isTime ? "≤" : "≥"} ${target}`,
        met: target === undefined ? null : isTime ? value <= target : value >= target,
      });
    }),
    ...ids.map((id): Row => {
      const value = median(firstTimes.get(id) ?? []);
      const most = MAX_FIRST_EMBEDDING_MS[id] ?? 0;
      const target = { target: `value ≤ ${most}`, met: value <= most };
      return makeRow({ case: `${id}, fresh isolate`, measure: "first embedding", value, unit: "ms", ...target });
    }),
  ];
}

/** The size of a backbone's files, and the memory that its first embedding adds. */
async function measureMemoryOf(backbone: Backbone, most: number): Promise<Row> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const before = await measureMemory(collect);
  await backbone.embed(["hello"]);
  const value = (backbone.bytes + (await measureMemory(collect)) - before) / 1e6;
  const target = { target: `value ≤ ${most}`, met: value <= most };
  return makeRow({ case: `${backbone.id}, files and memory`, measure: "bytes held", value, unit: "MB", ...target });
}

/** The texts of exactly so many sub-words. */
function selectByTokens(texts: readonly string[], tokens: number): string[] {
  return texts.filter((text) => textUse.tokenize(text).length === tokens);
}

/** The targets are meant for texts of a sentence or two. */
export async function run(): Promise<Row[]> {
  const { data } = readOptions();
  const tickets = textsOf(join(import.meta.dirname, "..", "examples", "support-tickets.csv"));
  const sets = data === "" ? [tickets] : [tickets, textsOf(join(data, "test.csv"))];
  const random = seededRandom(1);
  const letters = () => String.fromCharCode(97 + Math.floor(26 * random()));
  const longText = Array.from({ length: LONGEST_TEXT }, letters).join("");
  const hashTextRow = measureHashText(tickets);
  const memoryRows = [await measureMemoryOf(textStatic, 24), await measureMemoryOf(textUse, 48)];
  // Counting sub-words reads the vocabulary, which is a part of the memory measured before.
  const twelve = selectByTokens(sets.flat(), 12).slice(0, 256);
  const staticCases = sets.map((texts): EncodeCase => {
    const name = `${meanLength(texts)} characters a text`;
    return { id: textStatic.id, name, texts, batch: texts.length, unit: "1/s", target: MIN_TEXTS_PER_SECOND };
  });
  const rows = await measureInWorkerd([
    ...staticCases,
    {
      id: textStatic.id,
      name: `one unknown word of ${LONGEST_TEXT} letters`,
      texts: [longText],
      batch: 1,
      unit: "MB/s",
    },
    { id: textUse.id, name: "12 sub-words a text, 32 at a time", texts: twelve, batch: 32, unit: "1/s", target: 500 },
    { id: textUse.id, name: "12 sub-words a text, one at a time", texts: twelve, batch: 1, unit: "ms", target: 3 },
    {
      id: textUse.id,
      name: "a text of 128 sub-words",
      texts: ["My parcel is late. ".repeat(30)],
      batch: 1,
      unit: "ms",
    },
  ]);
  return [hashTextRow, ...rows, ...memoryRows];
}
