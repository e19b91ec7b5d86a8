/** What a training reads of labels that a request describes, alone or beside a dataset. */
import type { DatasetModality } from "../api/datasets.ts";
import type { StoredExample } from "../api/examples.ts";
import type { DescribedLabel, HeadLabel } from "../api/heads.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import type { Task } from "../core/head.ts";
import { limits } from "../core/limits.ts";
import type { TargetSet } from "../core/linear/targets.ts";
import { textsOfLabel } from "../core/text/label-texts.ts";
import { checkText, toStoredExample } from "../ingest/example.ts";
import type { TrainingSource } from "./source.ts";

export interface LabelRows {
  /** The examples sent with the labels. */
  readonly examples: readonly StoredExample[];
  /** The texts of the labels themselves. */
  readonly texts: readonly StoredExample[];
  /** As the head's record keeps them. */
  readonly labels: readonly DescribedLabel[];
}

const noLabels: LabelRows = { examples: [], texts: [], labels: [] };

/** Checks labels that a request describes; without any there are no rows. */
export function readLabels(labels: readonly HeadLabel[] | undefined): Result<LabelRows> {
  if (labels === undefined) return ok(noLabels);
  if (labels.length < 2)
    return fail("too_few_labels", `A head needs at least two labels; 'labels' has ${labels.length}.`, {
      param: "labels",
    });
  const names = new Set<string>();
  const examples: StoredExample[] = [];
  const texts: StoredExample[] = [];
  for (const [i, label] of labels.entries()) {
    if (names.has(label.name))
      return fail("invalid_label", `'labels' has the name '${label.name}' twice.`, { param: `labels[${i}].name` });
    names.add(label.name);
    texts.push(...textsOfLabel(label).map((text) => toStoredExample(null, text.toWellFormed(), label.name)));
    for (const [j, example] of (label.examples ?? []).entries()) {
      const checked = checkText(example, `labels[${i}].examples[${j}]`);
      if (!checked.ok) return checked;
      examples.push(toStoredExample(null, checked.value.text, label.name));
    }
  }
  const limit = limits.examples_per_training_request;
  if (examples.length > limit)
    return fail("limit_exceeded", `A request has at most ${limit} examples; its labels have ${examples.length}.`, {
      param: "labels",
      details: { limit, actual: examples.length },
    });
  return ok({
    examples,
    texts,
    labels: labels.map(({ name, description }) => ({ name, ...(description === undefined ? {} : { description }) })),
  });
}

/** Why the labels of a request cannot stand beside its examples, or null. */
export function checkLabels(
  { labels }: LabelRows,
  examples: { readonly task: Task; readonly modality: DatasetModality; readonly out_of_scope_label?: string | null },
): ReturnType<typeof fail> | null {
  if (labels.length === 0) return null;
  const param = "labels";
  if (examples.task !== "single_label")
    return fail("task_mismatch", `'labels' are for one label a text; these examples are for '${examples.task}'.`, {
      param,
    });
  if (examples.modality !== "text")
    return fail("modality_mismatch", "'labels' are read as texts, and these inputs are embeddings of your own.", {
      param,
    });
  const outOfScope = labels.findIndex(({ name }) => name === examples.out_of_scope_label);
  if (outOfScope < 0) return null;
  return fail("invalid_label", `'${examples.out_of_scope_label}' stands for no label in this dataset.`, {
    param: `labels[${outOfScope}].name`,
  });
}

/** Of the blocks of rows that follow a dataset's: beyond any of these. */
const FIRST_BLOCK = 2 ** 40;

/** A source of the rows of two others of one label a text, one after the other. Both number their groups alike. */
export function joinSources(first: TrainingSource, second: TrainingSource): TrainingSource {
  const prepareBoth: TrainingSource["prepare"] = async (yieldToEventLoop) => {
    const prepared = await first.prepare?.(yieldToEventLoop);
    if (prepared?.ok === false) return prepared;
    const others = await second.prepare?.(yieldToEventLoop);
    if (others?.ok === false) return others;
    return ok({ embedded: (prepared?.value.embedded ?? 0) + (others?.value.embedded ?? 0) });
  };
  const [texts, otherTexts] = [first.texts, second.texts];
  return {
    ...first,
    examples: first.examples + second.examples,
    textBytes: first.textBytes + second.textBytes,
    groups: Int32Array.from([...first.groups, ...second.groups]),
    targets: joinTargets(first.targets, second.targets),
    labelTexts: second.labelTexts ?? 0,
    prepare: first.prepare === null && second.prepare === null ? null : prepareBoth,
    texts:
      texts === null || otherTexts === null
        ? null
        : {
            bytes: texts.bytes + otherTexts.bytes,
            forEachText: async (visit, yieldToEventLoop) => {
              const visited = await texts.forEachText(visit, yieldToEventLoop);
              return visited.ok ? otherTexts.forEachText(visit, yieldToEventLoop) : visited;
            },
          },
    gatherFeatures: async (deliver, yieldToEventLoop) => {
      const gathered = await first.gatherFeatures(deliver, yieldToEventLoop);
      if (!gathered.ok) return gathered;
      const others = await second.gatherFeatures(
        (block, values) => deliver(FIRST_BLOCK + block, values),
        yieldToEventLoop,
      );
      return others.ok ? ok({ embedded: gathered.value.embedded + others.value.embedded }) : others;
    },
  };
}

/** The targets of the rows of both. */
function joinTargets(first: TargetSet, second: TargetSet): TargetSet {
  const labels = [...new Set([...first.labels, ...second.labels])].sort();
  const indexOf = new Map(labels.map((label, i) => [label, i]));
  const indicesOf = ({ labels: own, targets }: TargetSet) =>
    targets.kind === "single" ? Array.from(targets.indices, (index) => indexOf.get(own[index] ?? "") ?? -1) : [];
  const indices = Int32Array.from([...indicesOf(first), ...indicesOf(second)]);
  return { labels, targets: { kind: "single", indices } };
}
