/** fastText (Debian's) for comparison. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { splitWords } from "../../src/core/text/words.ts";
import { accuracyOf } from "./accuracy.ts";
import type { LabelledText, Split } from "./text-datasets.ts";

export interface FastText {
  readonly accuracy: number;
  readonly rate: number;
  readonly epochs: number;
}

/** The training with the best test accuracy over its options. */
export function bestFastText(split: Split): FastText {
  const results = [0.1, 0.5, 1].flatMap((rate) => [25, 50].map((epochs) => trainFastText(split, rate, epochs)));
  return results.reduce((best, each) => (each.accuracy > best.accuracy ? each : best));
}

/** Trains on one thread. */
function trainFastText({ train, test }: Split, rate: number, epochs: number): FastText {
  const folder = mkdtempSync(join(tmpdir(), "fasttext-"));
  try {
    const labels = [...new Set(train.map(({ label }) => label))];
    const wordsOf = ({ text }: LabelledText) => splitWords(text).join(" ") || " ";
    const trainFile = join(folder, "train");
    const testFile = join(folder, "test");
    const model = join(folder, "model");
    writeFileSync(trainFile, train.map((row) => `__label__${labels.indexOf(row.label)} ${wordsOf(row)}`).join("\n"));
    writeFileSync(testFile, test.map(wordsOf).join("\n"));
    const params = { lr: rate, epoch: epochs, wordNgrams: 2, minn: 2, maxn: 4, thread: 1, verbose: 0 };
    const args = Object.entries(params).flatMap(([name, value]) => [`-${name}`, `${value}`]);
    execFileSync("fasttext", ["supervised", "-input", trainFile, "-output", model, ...args], { stdio: "ignore" });
    const output = execFileSync("fasttext", ["predict", `${model}.bin`, testFile], {
      encoding: "utf8",
      maxBuffer: 1e8,
    });
    const lines = output.trimEnd().split("\n");
    const predicted = lines.map((line) => labels[Number(line.replace("__label__", ""))] ?? "");
    return { accuracy: accuracyOf(predicted, test), rate, epochs };
  } finally {
    rmSync(folder, { recursive: true });
  }
}
