/** The Worker that bench/encode.ts measures: it embeds the texts that it is sent, by text-static-1. */
import { textStatic } from "../src/backbones/workerd.ts";

// wrangler.toml binds them, and this Worker is started with the same configuration as the real one.
export class Tenant {}
export class Directory {}

export default {
  /** Embeds the texts of the body again and again, for about so many milliseconds; with none, once. */
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
