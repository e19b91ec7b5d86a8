/** Embeds the texts of a dataset before a training needs them, a piece in each request. */
import { maxCharacters } from "../backbones/chunks.ts";
import { backbonesToEmbedAhead } from "../backbones/workerd.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import { gatherBlocks } from "../store/gather.ts";
import { getLedger } from "../tenant/tenant.ts";
import { recordBlock } from "./dataset-source.ts";
import { createSlotHolder, Slot } from "./slot.ts";

/** Text of one piece: at most about 3 s of one core. */
const MAX_BYTES = 100_000;
/** Between two chunks, since a request takes several turns of the event loop. */
const PAUSE_MS = 2;

/** One piece of an isolate is embedded at a time; tenants take turns. */
export const embeddingSlot = new Slot();

const notStored = fail("storage_unavailable", "The embeddings could not be stored. They are made again.", {
  retryAfter: 5,
});

/** Embeds one piece. Answers of how many rows embeddings are stored by it; none if no row is missing any more. */
export async function embedAhead(request: TenantRequest, dataset: number): Promise<Result<{ rows: number }>> {
  const { env, tenant } = request;
  const slots = createSlotHolder(request, () => undefined);
  const failure = await slots.acquire(embeddingSlot);
  if (failure !== null) return { ok: false, failure };
  try {
    for (const backbone of backbonesToEmbedAhead(env.DEFAULT_BACKBONE)) {
      const name = `${backbone.id}@${backbone.revision}`;
      const ledger = getLedger(env.TENANT, tenant);
      const size = { maxBytes: MAX_BYTES, maxCharactersPerText: maxCharacters(backbone) };
      const rows = await ledger.readRowsToEmbed(dataset, name, size);
      if (!rows.ok) return rows;
      if (rows.value === null) continue;
      let stored = 0;
      const gathered = await gatherBlocks({
        kv: env.KV,
        tenant,
        backbone,
        rows: rows.value,
        readInputs: async (positions) => {
          const read = await ledger.readInputs(dataset, positions);
          return read.ok ? read.value : positions.map(() => null);
        },
        yieldToEventLoop: async () => {
          await scheduler.wait(PAUSE_MS);
          return slots.stopReason;
        },
        onBlock: () => undefined,
        recordBlock: (block, written) => {
          stored += rows.value?.positions.length ?? 0;
          return recordBlock({ kv: env.KV, ledger }, dataset, backbone, block, written);
        },
        retainedBlocks: new Map(),
      });
      request.setLogFields({ embedded: gathered.embedded });
      if (gathered.failure !== null) return { ok: false, failure: gathered.failure };
      return stored > 0 ? ok({ rows: stored }) : notStored;
    }
    return ok({ rows: 0 });
  } finally {
    slots.releaseAll();
  }
}
