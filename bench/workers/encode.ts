/** The Worker that bench/encode.ts measures. It embeds the texts of a request with text-static-1. */
import { textStatic } from "../../src/backbones/workerd.ts";

// wrangler.toml binds these classes, and this Worker starts with the real one's configuration.
export class Tenant {}
export class Directory {}

export default {
  /** Embeds the body's texts repeatedly, for about `milliseconds`; at least once. */
  async fetch(request: Request): Promise<Response> {
    const { texts, milliseconds } = (await request.json()) as { texts: string[]; milliseconds: number };
    const start = performance.now();
    let done = 0;
    let elapsed = 0;
    do {
      await textStatic.embed(texts);
      done += texts.length;
      elapsed = performance.now() - start;
    } while (elapsed < milliseconds);
    return Response.json({ done, elapsed });
  },
};
