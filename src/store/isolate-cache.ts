import type { Backbone } from "../backbones/backbone.ts";
import type { Head } from "../core/head.ts";
import { LruCache } from "../lib/lru.ts";

/** The isolate's decoded heads and fine-tuned backbones, by the keys of their bytes; at most so many bytes of both together. */
export const isolateCache = new LruCache<Head | Backbone>(24_000_000);
