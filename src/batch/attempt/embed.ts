/** Embeddings of texts: a remote backbone's, one stretch after another, and a local one's, made when they are asked for. */
import type { Backbone, BackboneFailure } from "../../backbones/backbone.ts";
import { ok, type Result } from "../../core/failure.ts";
import { type Pace, persist } from "../client/worker-client.ts";
import { unless } from "./cancellation.ts";
import type { Rows } from "./rows.ts";

/** What is lost when an attempt is cut off meanwhile. */
const INPUTS_A_STRETCH = 512;

const MAY_PASS: ReadonlySet<string> = new Set(["backend_unavailable", "backend_timeout", "backend_rate_limited"]);

/** How an attempt goes about it. */
export interface Manner {
  readonly pace: Pace;
  /** Throws the reason of an aborted one. */
  readonly signal: AbortSignal;
  /** Lets the event loop turn. */
  readonly turn: () => Promise<void>;
  /** Called after each stretch. */
  readonly grown: () => Promise<void>;
}

/**
 * Adds to `rows` until it has one for each text. A backbone that fails is asked again for as long as patience
 * lasts; what it gave before a failure is kept.
 */
export async function embedTexts(
  backbone: Backbone,
  texts: readonly string[],
  rows: Rows,
  { pace, signal, turn, grown }: Manner,
): Promise<Result<null>> {
  while (rows.count() < texts.length) {
    let failure = unfinished;
    const outcome = await persist(pace, signal, async () => {
      const part = texts.slice(rows.count(), rows.count() + INPUTS_A_STRETCH);
      await turn();
      const embedded = await unless(signal, backbone.embed(part));
      const missing = embedded.rows.findIndex((row) => row?.length !== backbone.dimensions);
      for (const row of embedded.rows.slice(0, missing === -1 ? part.length : missing)) rows.push(row as Float32Array);
      if (embedded.failure === null && missing === -1 && embedded.rows.length === part.length)
        return { type: "answer", value: null };
      failure = embedded.failure ?? unfinished;
      return MAY_PASS.has(failure.code)
        ? { type: "again", after: (failure.retryAfter ?? 0) * 1000 }
        : { type: "refused", status: 0 };
    });
    if (outcome.type !== "answer") return { ok: false, failure };
    await grown();
  }
  return ok(null);
}

/** A local backbone's embedding of a row's text: it costs less to make it again than to keep it. */
export function embedWhenAsked(backbone: Backbone, texts: readonly string[]): (row: number) => Promise<Float32Array> {
  return async (row) => {
    const { rows } = await backbone.embed([texts[row] ?? ""]);
    return rows[0] as Float32Array;
  };
}

const unfinished: BackboneFailure = {
  code: "backend_invalid_answer",
  message: "The backbone answered fewer embeddings than it was asked for.",
};
