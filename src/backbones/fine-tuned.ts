/**
 * A static backbone whose rows a tenant's fine-tuning has trained, as a delta over the shared one: the rows of words that
 * its examples have, and of pairs of words, which the shared one does not know. Every other word has its row of the base.
 *
 *   delta   "GFT1" | u32 bytes of JSON | u32 bytes of names | JSON | names | a static table without n-grams (text-static.ts)
 *           the JSON and the names each padded with spaces to a multiple of 4; the names one a line, pairs with a space between
 */
import type { Backbone } from "./backbone.ts";
import { quantise } from "./quantise.ts";
import { encode, readTable, type StaticBackbone, type StaticTable } from "./text-static.ts";

const MAGIC = 0x31544647;
const HEADER = 12;

export interface Delta {
  readonly base: { readonly id: string; readonly revision: string };
  readonly rows: StaticTable;
}

/** The bytes of a delta. `rows` has the row of each name, in their order. */
export function encodeDelta(base: Delta["base"], names: readonly string[], rows: Float32Array): Uint8Array {
  const table = quantise(rows, {
    dimensions: rows.length / Math.max(1, names.length),
    vocabulary: names.length,
    buckets: 0,
  });
  const json = padded(JSON.stringify({ base: { id: base.id, revision: base.revision } }));
  const listed = padded(names.join("\n"));
  const start = new Uint8Array(HEADER);
  const view = new DataView(start.buffer);
  [MAGIC, json.length, listed.length].forEach((value, i) => {
    view.setUint32(4 * i, value, true);
  });
  return new Uint8Array(Buffer.concat([start, json, listed, table]));
}

function padded(text: string): Uint8Array {
  const bytes = Buffer.from(text);
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4, " ")]);
}

/** The delta in these bytes, whose table stays where it lies; null where they hold none that is whole. */
export function decodeDelta(bytes: Uint8Array): Delta | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEADER || view.getUint32(0, true) !== MAGIC) return null;
  const names = HEADER + view.getUint32(4, true);
  const table = names + view.getUint32(8, true);
  try {
    const text = (from: number, to: number) =>
      new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes.subarray(from, to));
    const { base } = JSON.parse(text(HEADER, names)) as Delta;
    if (typeof base?.id !== "string" || typeof base.revision !== "string") return null;
    const rows = readTable(text(names, table), bytes.subarray(table));
    return rows.scales.every(Number.isFinite) ? { base, rows } : null;
  } catch {
    return null;
  }
}

/** The backbone of a delta over the base that it names. */
export function fineTunedBackbone(
  base: StaticBackbone,
  { id, revision }: Pick<Backbone, "id" | "revision">,
  { rows }: Delta,
  bytes: number,
): Backbone {
  return {
    id,
    revision,
    modality: "text",
    dimensions: base.dimensions,
    kind: "fine_tuned",
    license: base.license,
    parameters: base.parameters + rows.vocabulary.size * base.dimensions,
    bytes,
    cost: "local",
    embed: async (inputs) => {
      const table = base.table();
      return { rows: inputs.map((text) => encode(table, text, rows)), failure: null };
    },
  };
}
