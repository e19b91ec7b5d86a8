import type { Backbone } from "../backbones/backbone.ts";
import type { Head } from "../core/head.ts";
import { LruCache } from "../lib/lru.ts";

/** Decoded heads and fine-tuned backbones that an isolate keeps, by the keys of their bytes: so many bytes of both together. */
export const isolateCache = new LruCache<Head | Backbone>(24_000_000);
