/** A version of a head with everything that a prediction needs without this service. */
import type { HeadExport, Head as HeadRecord } from "../../api/heads.ts";
import type { Scope } from "../../core/evaluation/scope.ts";
import { type Head, type LexicalWeights, type Task, thresholdOf } from "../../core/head.ts";

const formulas: Record<Task, string> = {
  single_label: "softmax((weights · embedding + bias) / temperature), one probability a label",
  multi_label:
    "1 / (1 + exp(-(weights · embedding + bias) / temperature)), one probability a label; predicted from its threshold on",
  regression: "weights[0] · embedding + bias[0], clamped to value_range unless that is null",
};

const WITH_LEXICAL = "embedding + lexical.weights · features";

export function toHeadExport(record: HeadRecord, head: Head): HeadExport {
  const { id, version, task, labels, dimensions, backbone } = record;
  const outputs = head.bias.length;
  return {
    object: "head.export",
    id,
    version,
    format: "json",
    task,
    labels,
    dimensions,
    backbone,
    weights: Array.from({ length: outputs }, (_, k) =>
      Array.from(head.weights.subarray(k * head.dimensions, (k + 1) * head.dimensions)),
    ),
    lexical: head.lexical === null ? null : toLexicalExport(head.lexical, outputs),
    visible_text: head.visibleText,
    bias: Array.from(head.bias, (bias) => bias + head.offset),
    temperature: head.temperature,
    out_of_scope_threshold: head.outOfScopeThreshold,
    scope: head.scope === null ? null : toScopeExport(head.scope),
    thresholds: task === "multi_label" ? labels.map((_, k) => thresholdOf(head, k)) : null,
    value_range: head.valueRange === null ? null : [...head.valueRange],
    formula: formulas[task].replace("embedding", head.lexical === null ? "embedding" : WITH_LEXICAL),
  };
}

function toScopeExport({ figures, examples, scores, centroids }: Scope) {
  if (centroids === null) return { figures: [...figures], examples, scores: Array.from(scores), centroids: null };
  const { dimensions, starts, codes, scales } = centroids;
  const rowsOf = (group: number) =>
    Array.from({ length: (starts[group + 1] as number) - (starts[group] as number) }, (_, i) => {
      const row = (starts[group] as number) + i;
      const scale = scales[row] as number;
      return Array.from(codes.subarray(row * dimensions, (row + 1) * dimensions), (code) => code * scale);
    });
  const groups = Array.from({ length: starts.length - 1 }, (_, group) => rowsOf(group));
  return { figures: [...figures], examples, scores: Array.from(scores), centroids: groups };
}

function toLexicalExport({ buckets, scale, seenBuckets, idf, weights, scales }: LexicalWeights, outputs: number) {
  const outputWeights = Array.from({ length: outputs }, (_, k) =>
    Array.from(idf, (_, j) => (weights[j * outputs + k] ?? 0) * (scales[k] ?? 0)),
  );
  return { buckets, scale, seen: Array.from(seenBuckets), idf: Array.from(idf), weights: outputWeights };
}
