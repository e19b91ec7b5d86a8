/**
 * Tests heads on a stored dataset, block by block: of a block nothing stays but what each head predicts. The embeddings are
 * those of trainings on the dataset, and what is missing of them is stored for the next time.
 */
import type { Backbone } from "../backbones/backbone.ts";
import { estimateTestCost } from "../core/evaluation/test-cost.ts";
import { encodeTestTargets, type TestResult, type TestTargets, testHead } from "../core/evaluation/test-set.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import type { Head } from "../core/head.ts";
import { edgeBudget } from "../core/limits.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import type { DatasetRow } from "../tenant/data/datasets.ts";
import { getLedger } from "../tenant/tenant.ts";
import { createDatasetSource, datasetChanged } from "./dataset-source.ts";
import { createSlotHolder, gatheringSlot, Slot, type SlotHolder, trainingSlot } from "./slot.ts";
import { parseTargets } from "./source.ts";
import { type TestGroup, testGroup } from "./test-group.ts";

/** One test of an isolate holds rows and a block of embeddings at a time, beside a training; tenants take turns. */
export const testSlot = new Slot();
/** What is kept of more rows takes as much memory as a training's arrays, and has to wait for these. */
const MAX_ROWS_BESIDE_TRAINING = 20_000;

/** A head with the backbone that it was trained on; null for the caller's own embeddings. */
export interface TestedHead {
  readonly head: Head;
  readonly backbone: Backbone | null;
}

export interface DatasetTest {
  readonly dataset: DatasetRow;
  /** The position of each row. */
  readonly positions: Uint32Array;
  /** For each head, in their order. */
  readonly tests: readonly {
    readonly targets: TestTargets;
    /** How many of their labels are the head's. */
    readonly headLabels: number;
    readonly result: TestResult;
  }[];
}

/**
 * Tests heads of one task on the same rows: those of the dataset as it is now. Refuses a test beyond the budget before the
 * work, lets other requests run between its steps, and stops when its client has gone. Fails if the first head knows none
 * of the labels. `param` is where the request names the dataset.
 */
export async function runTest(
  request: TenantRequest,
  name: string,
  heads: readonly TestedHead[],
  param: string,
): Promise<Result<DatasetTest>> {
  const dataset = await getLedger(request.env.TENANT, request.tenant).findDataset(name);
  if (!dataset.ok) return { ok: false, failure: { ...dataset.failure, param } };
  for (const head of heads) {
    const check = checkTestSet(dataset.value, head, param);
    if (!check.ok) return check;
  }
  const slots = createSlotHolder(request, () => undefined);
  const isRemote = heads.some(({ backbone }) => backbone?.cost === "remote");
  const slot = isRemote ? gatheringSlot : dataset.value.examples > MAX_ROWS_BESIDE_TRAINING ? trainingSlot : testSlot;
  const failure = await slots.acquire(slot);
  if (failure !== null) return { ok: false, failure };
  try {
    return await testRows(request, slots, name, heads, param);
  } finally {
    slots.releaseAll();
  }
}

/** Refuses a dataset whose examples a head cannot predict. */
function checkTestSet(
  { name, task, modality, dimensions, examples }: DatasetRow,
  { head, backbone }: TestedHead,
  param: string,
): Result<null> {
  if (task !== head.task)
    return fail("task_mismatch", `Dataset '${name}' is for the task '${task}', and the head for '${head.task}'.`, {
      param,
    });
  const isFitting =
    backbone === null ? modality === "embedding" && dimensions === head.dimensions : modality === "text";
  if (!isFitting) {
    const inputs = modality === "embedding" ? `embeddings of ${dimensions} numbers` : "texts";
    const expected = backbone === null ? `embeddings of ${head.dimensions} numbers` : "texts";
    return fail("modality_mismatch", `Dataset '${name}' has ${inputs}, and the head takes ${expected}.`, { param });
  }
  return examples > 0 ? ok(null) : fail("too_few_examples", `Dataset '${name}' has no examples to test on.`, { param });
}

async function testRows(
  request: TenantRequest,
  slots: SlotHolder,
  name: string,
  heads: readonly TestedHead[],
  param: string,
): Promise<Result<DatasetTest>> {
  const groups = await readGroups(request, name, heads);
  if (!groups.ok) return { ok: false, failure: { ...groups.failure, param: groups.failure.param ?? param } };
  const [first] = groups.value;
  if (first === undefined) throw new Error("There is no head to test.");
  const overBudget = checkBudget(groups.value, param);
  if (!overBudget.ok) return overBudget;
  const { dataset } = first.rows;
  const targets = parseTargets(first.rows.targets);
  const tests = heads.map(({ head }) => {
    const testTargets = encodeTestTargets(head, targets, dataset.out_of_scope_label);
    return { head, targets: testTargets, test: testHead(head, testTargets) };
  });
  if (!tests.slice(0, 1).every(sharesLabel))
    return fail("too_few_labels", `The head knows none of the labels of dataset '${name}'.`, { param });
  let embedded = 0;
  for (const group of groups.value) {
    const groupTests = tests.filter(({ head }) => group.heads.includes(head));
    const done = await testGroup(request, slots, group, groupTests);
    if (!done.ok) return done;
    embedded += done.value.embedded;
  }
  request.setLogFields({ examples: first.rows.positions.length, embedded });
  return ok({
    dataset,
    positions: first.rows.positions,
    tests: tests.map(({ head, targets: own, test }) => ({
      targets: own,
      headLabels: head.labels.length,
      result: test.result(),
    })),
  });
}

/** Reads the rows once for each backbone, all at one revision. */
async function readGroups(
  { env, tenant }: TenantRequest,
  name: string,
  heads: readonly TestedHead[],
): Promise<Result<readonly TestGroup[]>> {
  const ledger = getLedger(env.TENANT, tenant);
  const nameOf = (backbone: Backbone | null) => (backbone ? `${backbone.id}@${backbone.revision}` : "");
  const byBackbone = Map.groupBy(heads, ({ backbone }) => nameOf(backbone));
  const groups: TestGroup[] = [];
  for (const [backboneName, members] of byBackbone) {
    const backbone = members[0]?.backbone ?? null;
    const known = groups[0]?.rows.dataset;
    const rows = await ledger.readTrainingRows(name, backboneName, known?.revision);
    if (!rows.ok) return rows;
    if (known !== undefined && known.id !== rows.value.dataset.id) return datasetChanged;
    const storage = { kv: env.KV, tenant, ledger };
    const source = createDatasetSource(storage, rows.value, backbone, { maxConcurrentReads: 1 });
    groups.push({ backbone, heads: members.map(({ head }) => head), rows: rows.value, source });
  }
  return ok(groups);
}

function checkBudget(groups: readonly TestGroup[], param: string): Result<null> {
  const estimate = estimateTestCost(
    groups.map(({ heads, rows, source }) => ({
      examples: rows.positions.length,
      textBytes: source.textBytes,
      inputBytes: rows.inputBytes,
      heads: heads.map(({ dimensions, bias, lexical }) => ({
        dimensions,
        outputs: bias.length,
        lexical: lexical !== null,
      })),
    })),
  );
  if (estimate.operations <= edgeBudget.operations && estimate.bytes <= edgeBudget.bytes) return ok(null);
  const message = "This test is beyond what one request may use. Use fewer examples or shorter texts.";
  return fail("edge_budget_exceeded", message, { param, details: { estimate, budget: edgeBudget } });
}

/** Whether a row is of a label that the head knows. */
function sharesLabel({ head, targets: { targets } }: { readonly head: Head; readonly targets: TestTargets }): boolean {
  const isKnown = (label: number) => label >= 0 && label < head.labels.length;
  if (targets.kind === "value") return true;
  return targets.kind === "single" ? targets.indices.some(isKnown) : targets.indices.some((row) => row.some(isKnown));
}
