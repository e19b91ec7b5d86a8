/**
 * Miniflare with one constant changed. It hands all modules to the runtime in one buffer, which grows by 4 KiB at a time and
 * is copied each time: a hundred copies of the Worker's 25 MB, which were most of a start.
 */
import { createRequire, registerHooks } from "node:module";
import { pathToFileURL } from "node:url";

/** As it stands in Miniflare's source. */
export const BUFFER_GROWTH = "MIN_SINGLE_SEGMENT_GROWTH = 4096;";
export const miniflareFile = createRequire(import.meta.url).resolve("miniflare");

const { href } = pathToFileURL(miniflareFile);
const hooks = registerHooks({
  load(url, context, nextLoad) {
    const loaded = nextLoad(url, context);
    if (url !== href) return loaded;
    return {
      ...loaded,
      source: String(loaded.source).replace(BUFFER_GROWTH, "MIN_SINGLE_SEGMENT_GROWTH = 4_194_304;"),
    };
  },
});
export const { convertV4MiniflareOptions, Log, LogLevel, Miniflare } = await import("miniflare");
// It loads Miniflare as well.
export const { unstable_getMiniflareWorkerOptions } = await import("wrangler");
hooks.deregister();
