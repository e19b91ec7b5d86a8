/** A version of a head with everything that a prediction needs without this service. */
import type { HeadExport, Head as HeadRecord } from "../../api/heads.ts";
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
    thresholds: task === "multi_label" ? labels.map((_, k) => thresholdOf(head, k)) : null,
    value_range: head.valueRange === null ? null : [...head.valueRange],
    formula: formulas[task].replace("embedding", head.lexical === null ? "embedding" : WITH_LEXICAL),
  };
}

function toLexicalExport({ buckets, scale, seenBuckets, idf, weights, scales }: LexicalWeights, outputs: number) {
  const outputWeights = Array.from({ length: outputs }, (_, k) =>
    Array.from(idf, (_, j) => (weights[j * outputs + k] ?? 0) * (scales[k] ?? 0)),
  );
  return { buckets, scale, seen: Array.from(seenBuckets), idf: Array.from(idf), weights: outputWeights };
}
