/** What a training reads: a stored data set, or examples sent with the request. */
import type { Backbone } from "../backbones/backbone.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import type { Task } from "../core/head.ts";
import { readTargets, type Target, type TargetSet } from "../core/linear/targets.ts";
import {
  BLOCK_ROWS,
  type BlockWork,
  CHARACTERS_A_STRETCH,
  effortOf,
  embedInTurns,
  gatherBlocks,
  isInput,
  type Turn,
} from "../store/embeddings.ts";
import { hex } from "../lib/hash.ts";
import type { DatasetModality } from "../tenant/data/datasets.ts";
import type { StoredExample } from "../tenant/data/examples.ts";
import type { Remote, Tenant } from "../tenant/tenant.ts";
import type { TrainingRows } from "../tenant/data/training-sets.ts";

type Deliver = (block: number, values: Float32Array) => void;

/** What a training reads, whichever way it came. */
export interface TrainingSource {
  readonly task: Task;
  readonly modality: DatasetModality;
  readonly dimensions: number;
  readonly examples: number;
  /** Text that a local backbone may have to embed, in bytes of UTF-8, times its effort. */
  readonly textBytes: number;
  readonly groups: Int32Array;
  readonly targets: TargetSet;
  /**
   * Asks a remote backbone, which may take minutes, for what no cache has, so that `features` finds all of it; null where
   * no backbone is remote.
   */
  readonly prepare: ((turn: Turn) => Promise<Result<{ embedded: number }>>) | null;
  /** Every row's text; null where the inputs are no texts. */
  readonly texts: Texts | null;
  /** Gathers the embeddings as blocks (rows × dimensions each), in any order; the blocks' numbers rise with the rows. */
  readonly features: (deliver: Deliver, turn: Turn) => Promise<Result<{ embedded: number }>>;
}

/** Takes a text; answers whether it wants more of them. */
type Visit = (text: string) => boolean;

interface Texts {
  /** Of UTF-8. */
  readonly bytes: number;
  /** Shows the texts in order, until no more are wanted, with a turn for others before each stretch. */
  readonly show: (visit: Visit, turn: Turn) => Promise<Result<null>>;
}

function parsed(targets: readonly string[]): Target[] {
  return targets.map((json) => JSON.parse(json) as Target);
}

/** A stored data set as the source of a training. */
export function datasetSource(
  kv: KVNamespace,
  tenantId: string,
  tenant: Remote<Tenant>,
  rows: TrainingRows,
  backbone: Backbone | null,
): TrainingSource {
  const { dataset } = rows;
  const blocks = new Map(rows.blocks);
  const kept = new Map<number, Float32Array>();
  const inputs = async (positions: readonly number[]) => {
    const read = await tenant.readInputs(dataset.id, positions);
    return read.ok ? read.value : positions.map(() => null);
  };
  const gather = async (backbone: Backbone, deliver: BlockWork["deliver"], turn: Turn) => {
    const record = async (block: number, key: string) => {
      blocks.set(block, key);
      await tenant.recordBlocks(dataset.id, `${backbone.id}@${backbone.revision}`, new Map([[block, key]]));
    };
    const from = { kv, tenant: tenantId, backbone, rows: { ...rows, blocks }, inputs, kept };
    const done = await gatherBlocks({ ...from, turn, deliver, record });
    return done.failure === null ? ok({ embedded: done.embedded }) : { ok: false as const, failure: done.failure };
  };
  return {
    task: dataset.task,
    modality: dataset.modality,
    dimensions: backbone?.dimensions ?? dataset.dimensions ?? 0,
    examples: rows.positions.length,
    textBytes: backbone?.cost === "local" ? rows.inputBytes * effortOf(backbone) : 0,
    groups: rows.groups,
    targets: readTargets(dataset.task, parsed(rows.targets), dataset.out_of_scope_label),
    prepare:
      backbone?.cost === "remote"
        ? (turn) => gather(backbone, (block, values, stored) => void (stored || kept.set(block, values)), turn)
        : null,
    texts:
      backbone === null
        ? null
        : { bytes: rows.inputBytes, show: (visit, turn) => showStored(rows, inputs, visit, turn) },
    features: async (deliver, turn) => {
      if (backbone === null) return ownEmbeddings(rows, dataset.dimensions ?? 0, inputs, deliver, turn);
      const passOn: Deliver = (block, values) => {
        kept.delete(block);
        deliver(block, values);
      };
      return gather(backbone, passOn, turn);
    },
  };
}

const changed = fail("dataset_changed", "The dataset was changed while it was read. Train again.", { retryAfter: 1 });

/** Shows the texts of a stored data set, of which the ledger answers some at a time. */
async function showStored(
  rows: TrainingRows,
  read: (positions: readonly number[]) => Promise<readonly (string | Uint8Array | null)[]>,
  visit: Visit,
  turn: Turn,
): Promise<Result<null>> {
  for (let start = 0; start < rows.positions.length; ) {
    const inputs = await read(Array.from(rows.positions.subarray(start, start + BLOCK_ROWS)));
    const texts = inputs.filter((input) => typeof input === "string");
    if (
      texts.length === 0 ||
      texts.length < inputs.length ||
      texts.some((text, i) => !isInput(text, rows.inputHashes, start + i))
    )
      return changed;
    const shown = await showInTurns(texts, visit, turn);
    if (!shown.ok) return shown;
    if (!shown.value) break;
    start += inputs.length;
  }
  return ok(null);
}

/** Shows texts, with a turn before each stretch of them; answers whether more are wanted. */
async function showInTurns(texts: readonly string[], visit: Visit, turn: Turn): Promise<Result<boolean>> {
  let left = 0;
  for (const text of texts) {
    if (left <= 0) {
      const refused = await turn();
      if (refused !== null) return { ok: false, failure: refused };
      left = CHARACTERS_A_STRETCH;
    }
    if (!visit(text)) return ok(false);
    left -= text.length;
  }
  return ok(true);
}

/** The caller's own embeddings need no backbone and no cache: they are the inputs. */
async function ownEmbeddings(
  rows: TrainingRows,
  dimensions: number,
  read: (positions: readonly number[]) => Promise<readonly (string | Uint8Array | null)[]>,
  deliver: Deliver,
  turn: Turn,
): Promise<Result<{ embedded: number }>> {
  for (let start = 0; start < rows.positions.length; ) {
    const refused = await turn();
    if (refused !== null) return { ok: false, failure: refused };
    const inputs = await read(Array.from(rows.positions.subarray(start, start + BLOCK_ROWS)));
    const values = new Float32Array(inputs.length * dimensions);
    for (const [i, input] of inputs.entries()) {
      if (!(input instanceof Uint8Array) || !isInput(input, rows.inputHashes, start + i)) return changed;
      values.set(new Float32Array(input.slice().buffer), i * dimensions);
    }
    deliver(start, values);
    start += inputs.length;
  }
  return ok({ embedded: 0 });
}

/** Examples sent with the request as the source of a training. */
export function inlineSource(
  task: Task,
  examples: readonly StoredExample[],
  backbone: Backbone | null,
  dimensions: number,
): TrainingSource {
  const groups = new Map<string, number>();
  const gather = async (deliver: Deliver, turn: Turn): Promise<Result<{ embedded: number }>> => {
    for (let start = 0; start < examples.length; start += BLOCK_ROWS) {
      const inputs = examples.slice(start, start + BLOCK_ROWS).map(({ input }) => input);
      const values = new Float32Array(inputs.length * dimensions);
      if (backbone === null) {
        inputs.forEach((input, i) => {
          if (input instanceof Uint8Array) values.set(new Float32Array(input.slice().buffer), i * dimensions);
        });
      } else {
        const texts = inputs.filter((input) => typeof input === "string");
        const embedded = await embedInTurns(backbone, texts, turn);
        if (embedded.failure !== null) return { ok: false, failure: embedded.failure };
        for (const [i, row] of embedded.rows.entries()) if (row) values.set(row, i * dimensions);
      }
      deliver(start, values);
    }
    return ok({ embedded: backbone === null ? 0 : examples.length });
  };
  const show = async (visit: Visit, turn: Turn): Promise<Result<null>> => {
    const texts = examples.map(({ input }) => input).filter((input) => typeof input === "string");
    const shown = await showInTurns(texts, visit, turn);
    return shown.ok ? ok(null) : shown;
  };
  const kept = new Map<number, Float32Array>();
  const deliverKept = async (deliver: Deliver) => {
    for (const [block, values] of kept) {
      kept.delete(block);
      deliver(block, values);
    }
    return ok({ embedded: 0 });
  };
  const remote = backbone?.cost === "remote";
  const bytes = backbone === null ? 0 : examples.reduce((sum, { input }) => sum + Buffer.byteLength(input), 0);
  return {
    task,
    modality: backbone === null ? "embedding" : "text",
    dimensions,
    examples: examples.length,
    textBytes: backbone?.cost === "local" ? bytes * effortOf(backbone) : 0,
    groups: Int32Array.from(examples, ({ groupHash }) => {
      const key = hex(groupHash);
      const number = groups.get(key) ?? groups.size;
      groups.set(key, number);
      return number;
    }),
    targets: readTargets(task, parsed(examples.map(({ target }) => target)), null),
    texts: backbone === null ? null : { bytes, show },
    prepare: remote ? (turn) => gather((block, values) => void kept.set(block, values), turn) : null,
    features: remote ? deliverKept : gather,
  };
}
