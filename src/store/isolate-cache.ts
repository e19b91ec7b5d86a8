import type { Backbone } from "../backbones/backbone.ts";
import type { Head } from "../core/head.ts";
import type { Sketch } from "../core/sketch.ts";
import { LruCache } from "../lib/lru.ts";

/** What an isolate has room for beside both backbones and the largest training: ARCHITECTURE.md, "Memory". */
const ISOLATE_CACHE_BYTES = 24_000_000;

/** The isolate's decoded heads, their sketches and fine-tuned backbones, by the keys of their bytes. */
export const isolateCache = new LruCache<Head | Sketch | Backbone>(ISOLATE_CACHE_BYTES);
