/** Finds the issues of a dataset, in the slot of a training, and stores them for the dataset's revision. */
import type { Backbone } from "../backbones/backbone.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { findDatasetIssues, type IssueOptions, modelBudget, planIssues } from "../core/labels/find-issues.ts";
import type { RowIssue } from "../core/labels/issue.ts";
import { edgeBudget } from "../core/limits.ts";
import type { Cost } from "../core/linear/types.ts";
import { chooseBackbones, getHeadBackbone } from "../serving/backbones.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import type { IssueSource, NewIssue } from "../tenant/data/issues.ts";
import type { TrainingRows } from "../tenant/data/training-sets.ts";
import { getLedger } from "../tenant/tenant.ts";
import { createDatasetSource } from "./dataset-source.ts";
import { runInSlot, shapeOf } from "./run.ts";
import type { TrainingSource } from "./source.ts";

/** Finds the issues of a dataset unless those of its present revision are stored. */
export async function refreshIssues(
  request: TenantRequest,
  name: string,
  headName: string | undefined,
): Promise<Result<null>> {
  const { env, tenant } = request;
  const ledger = getLedger(env.TENANT, tenant);
  const read = await ledger.readIssueSource(name, headName ?? null);
  if (!read.ok) return read;
  const { dataset, stored } = read.value;
  const backbones = await findBackbones(request, read.value, headName !== undefined);
  if (!backbones.ok) return backbones;
  if (stored?.revision === dataset.revision && backbones.value.some((each) => keyOf(each) === stored.backbone))
    return ok(null);
  if (dataset.examples === 0)
    return fail("too_few_examples", `Dataset '${name}' has no examples yet, so there is nothing to judge.`);
  let failure = beyondBudget({ operations: 0, bytes: 0 });
  for (const backbone of backbones.value) {
    const prepared = await prepare(request, read.value, backbone);
    if (!prepared.ok) return prepared;
    if ("cost" in prepared.value) {
      failure = beyondBudget(prepared.value.cost);
      continue;
    }
    const { rows, source, options } = prepared.value;
    const budget = modelBudget(shapeOf(source), edgeBudget);
    const found = await runInSlot(request, source, options, budget, (tensors, trainingSet) =>
      findDatasetIssues(tensors, trainingSet, options, { ...edgeBudget, bytes: budget.bytes }),
    );
    if (!found.ok) return found;
    const { value, operations, embedded } = found.value;
    request.setLogFields({ examples: source.examples, embedded, operations, issues: value.issues.length });
    return ledger.storeIssues({
      dataset: rows.dataset.id,
      revision: rows.dataset.revision,
      backbone: keyOf(backbone),
      noise: value.noise,
      issues: value.issues.map((issue) => toNewIssue(issue, rows, source)),
    });
  }
  return failure;
}

function keyOf(backbone: Backbone | null): string {
  return backbone === null ? "" : `${backbone.id}@${backbone.revision}`;
}

/** That of the head, or those that the dataset may be judged on, the preferred one first. */
async function findBackbones(
  { env, tenant }: TenantRequest,
  { dataset, head }: IssueSource,
  isNamed: boolean,
): Promise<Result<readonly (Backbone | null)[]>> {
  if (isNamed && head !== null && head.modality !== dataset.modality)
    return fail(
      "modality_mismatch",
      `Head '${head.id}' takes inputs of modality '${head.modality}', and the dataset has '${dataset.modality}'.`,
      { param: "head", status: 422 },
    );
  const backbone = head === null ? null : await getHeadBackbone(env, tenant, head);
  if (backbone?.ok) return ok([backbone.value]);
  if (backbone !== null && isNamed) return backbone;
  return chooseBackbones(env, tenant, dataset.modality, undefined, "head");
}

type Prepared =
  | { readonly rows: TrainingRows; readonly source: TrainingSource; readonly options: IssueOptions }
  | { readonly cost: Cost };

/** Reads the rows of a dataset, if finding its issues is within the budget; otherwise the cost. */
async function prepare(
  { env, tenant }: TenantRequest,
  { dataset }: IssueSource,
  backbone: Backbone | null,
): Promise<Result<Prepared>> {
  const ledger = getLedger(env.TENANT, tenant);
  const dimensions = backbone?.dimensions ?? dataset.dimensions ?? 0;
  // Before the rows are read: those of a dataset that is far too large would not fit into the ledger's memory.
  const least = planIssues({ task: dataset.task, examples: dataset.examples, dimensions, outputs: 1 }, edgeBudget);
  if ("cost" in least) return ok(least);
  const rows = await ledger.readTrainingRows(dataset.name, keyOf(backbone));
  if (!rows.ok) return rows;
  const source = createDatasetSource({ kv: env.KV, tenant, ledger }, rows.value, backbone);
  const plan = planIssues(shapeOf(source), edgeBudget);
  return ok("cost" in plan ? plan : { rows: rows.value, source, options: plan.options });
}

function beyondBudget(cost: Cost): Result<never> {
  const message =
    "Finding the issues of this dataset is beyond what one request may use. Use fewer examples, shorter texts, or a head on a backbone of fewer dimensions.";
  return fail("edge_budget_exceeded", message, { details: { estimate: cost, budget: edgeBudget } });
}

function toNewIssue(issue: RowIssue, { positions }: TrainingRows, source: TrainingSource): NewIssue {
  const { labels } = source.targets;
  const { type, row, other, suggestion, score } = issue;
  const target =
    suggestion === null
      ? null
      : typeof suggestion !== "number"
        ? suggestion.map((label) => labels[label])
        : source.task === "regression"
          ? suggestion
          : labels[suggestion];
  return {
    type,
    position: positions[row] ?? 0,
    related: other === null ? null : (positions[other] ?? null),
    target: target === null ? null : JSON.stringify(target),
    score: Number(score.toFixed(4)),
  };
}
