import type { Backbone } from "../backbones/backbone.ts";
import type { Head } from "../core/head.ts";
import { LruCache } from "../lib/lru.ts";

/** What an isolate has room for beside both backbones and the largest training: ARCHITECTURE.md, "Memory". */
const ISOLATE_CACHE_BYTES = 24_000_000;

/** The isolate's decoded heads and fine-tuned backbones, by the keys of their bytes. */
export const isolateCache = new LruCache<Head | Backbone>(ISOLATE_CACHE_BYTES);
