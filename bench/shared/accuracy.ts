/** Accuracy on labelled sets: of heads, through the HTTP API, and of a peer. */
import { calibrationBins, mean } from "../../src/core/evaluation/metrics.ts";
import type { Client } from "../../src/sdk/client.ts";
import type { Peer } from "./python-peer.ts";
import type { LabelledText } from "./text-datasets.ts";

const TEXTS_PER_REQUEST = 1_024;

/**
 * Replaces a dataset. `withIds` gives each row an id, so that equal rows all count, as they do for scikit-learn and
 * fastText. Without ids they count once.
 */
export async function uploadDataset(
  graft: Client,
  name: string,
  rows: readonly LabelledText[],
  withIds = false,
): Promise<void> {
  await graft.datasets.delete(name).catch(() => undefined);
  await graft.datasets.create({ name, task: "single_label", modality: "text" });
  const lines = rows.map(({ text, label }, i) =>
    JSON.stringify(withIds ? { id: `${i}`, text, label } : { text, label }),
  );
  await graft.datasets.import(name, lines.join("\n"), "application/x-ndjson");
}

export interface HeadQuality {
  readonly accuracy: number;
  /** The expected calibration error of the most probable label. */
  readonly calibrationError: number;
}

/** How a head does on test texts. */
export async function measureQuality(graft: Client, head: string, test: readonly LabelledText[]): Promise<HeadQuality> {
  const bins = calibrationBins();
  let correct = 0;
  for (let first = 0; first < test.length; first += TEXTS_PER_REQUEST) {
    const batch = test.slice(first, first + TEXTS_PER_REQUEST);
    const { data } = await graft.heads.predict(head, { input: batch.map(({ text }) => text) });
    for (const [i, { label }] of batch.entries()) {
      const isCorrect = data[i]?.label === label;
      correct += Number(isCorrect);
      bins.add(data[i]?.score ?? 0, isCorrect);
    }
  }
  return { accuracy: correct / test.length, calibrationError: bins.error() };
}

/** The share of test texts whose most probable label by a head is right. */
export async function measureAccuracy(graft: Client, head: string, test: readonly LabelledText[]): Promise<number> {
  return (await measureQuality(graft, head, test)).accuracy;
}

/** The labels of texts by TF-IDF and a linear SVM (bench/peers/backbone.py). */
export function predictBySvm(
  peer: Peer<string[]>,
  train: readonly LabelledText[],
  rows: readonly Pick<LabelledText, "text">[],
): Promise<string[]> {
  return peer.request({
    do: "svm",
    texts: train.map(({ text }) => text),
    labels: train.map(({ label }) => label),
    test: rows.map(({ text }) => text),
  });
}

/** The share of rows whose label is predicted. */
export function accuracyOf(predicted: readonly string[], rows: readonly LabelledText[]): number {
  return mean(rows.map(({ label }, i) => Number(label === predicted[i])));
}
