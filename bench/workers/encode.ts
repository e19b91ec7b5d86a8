/** The Worker that bench/encode.ts and bench/finetune measure. It embeds the texts of a request. */
import type { Backbone } from "../../src/backbones/backbone.ts";
import { loadDelta, readDelta } from "../../src/backbones/deltas.ts";
import { bundledBackbones, textUse } from "../../src/backbones/workerd.ts";

// wrangler.toml binds these classes, and this Worker starts with the real one's configuration.
export class Tenant {}
export class Directory {}

export interface EncodeRequest {
  readonly id: string;
  readonly texts: readonly string[];
  readonly batch: number;
  readonly milliseconds: number;
  /** In base64. A delta over text-use-1, whose backbone has that id from now on. */
  readonly delta?: string;
}

const backbones = new Map<string, Backbone>(bundledBackbones.map((backbone) => [backbone.id, backbone]));

function addFineTuned(id: string, base64: string): void {
  const bytes = new Uint8Array(Buffer.from(base64, "base64"));
  const delta = readDelta(bytes);
  const loaded = delta && loadDelta(textUse, { id, revision: "" }, delta, bytes.length);
  if (loaded) backbones.set(id, loaded.backbone);
}

export default {
  /** Embeds the body's texts repeatedly, `batch` at a time, for about `milliseconds`; at least once. */
  async fetch(request: Request): Promise<Response> {
    const { id, texts, batch, milliseconds, delta } = (await request.json()) as EncodeRequest;
    if (delta !== undefined) addFineTuned(id, delta);
    const backbone = backbones.get(id);
    if (backbone === undefined) return new Response(null, { status: 404 });
    const startedAt = performance.now();
    let done = 0;
    let elapsed = 0;
    do {
      for (let start = 0; start < texts.length; start += batch) await backbone.embed(texts.slice(start, start + batch));
      done += texts.length;
      elapsed = performance.now() - startedAt;
    } while (elapsed < milliseconds);
    return Response.json({ done, elapsed });
  },
};
