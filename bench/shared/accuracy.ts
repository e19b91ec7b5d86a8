/** Uploads labelled sets and measures accuracy through the HTTP API. */
import type { Client } from "../../src/sdk/client.ts";
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

/** The share of test texts whose most probable label by a head is right. */
export async function measureAccuracy(graft: Client, head: string, test: readonly LabelledText[]): Promise<number> {
  let correct = 0;
  for (let first = 0; first < test.length; first += TEXTS_PER_REQUEST) {
    const batch = test.slice(first, first + TEXTS_PER_REQUEST);
    const { data } = await graft.heads.predict(head, { input: batch.map(({ text }) => text) });
    correct += batch.filter(({ label }, i) => data[i]?.label === label).length;
  }
  return correct / test.length;
}
