/** The Worker that bench/encode.ts measures. It embeds the texts of a request. */
import { bundledBackbones } from "../../src/backbones/workerd.ts";

// wrangler.toml binds these classes, and this Worker starts with the real one's configuration.
export class Tenant {}
export class Directory {}

export interface EncodeRequest {
  readonly id: string;
  readonly texts: readonly string[];
  readonly batch: number;
  readonly milliseconds: number;
}

export default {
  /** Embeds the body's texts repeatedly, `batch` at a time, for about `milliseconds`; at least once. */
  async fetch(request: Request): Promise<Response> {
    const { id, texts, batch, milliseconds } = (await request.json()) as EncodeRequest;
    const backbone = bundledBackbones.find((each) => each.id === id);
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
