/** A linear probe of a backbone: the shipped training and prediction on a set of texts, in Node. */
import { predict } from "../../src/core/head.ts";
import { train } from "../../src/core/linear/train.ts";
import { hasLexicalRoom, lexicalBucketCount } from "../../src/core/text/buckets.ts";
import { createLexicalVectorizer } from "../../src/core/text/lexical.ts";
import { createLexicalReader } from "../../src/core/text/lexical-reader.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import type { Split } from "./text-datasets.ts";

/** Test accuracy of a head that is trained on a split's training texts, with or without lexical features. */
export async function linearProbeAccuracy(
  encode: (text: string) => Float32Array,
  dimensions: number,
  { train: rows, test }: Split,
  lexical: boolean,
): Promise<number> {
  const tensors = await nodeTensorBackend();
  const labels = [...new Set(rows.map(({ label }) => label))].sort();
  const index = new Map(labels.map((label, i) => [label, i]));
  const groups = new Map<string, number>();
  const blocks = [];
  for (let first = 0; first < rows.length; first += 1024) {
    const part = rows.slice(first, first + 1024);
    const values = new Float32Array(part.length * dimensions);
    for (const [i, { text }] of part.entries()) values.set(encode(text), i * dimensions);
    blocks.push(tensors.matrix(part.length, dimensions, values));
  }
  const reader =
    lexical === false || !hasLexicalRoom(labels.length) ? null : createLexicalReader(lexicalBucketCount(labels.length));
  for (const { text } of rows) reader?.add(text);
  const trainingSet = {
    task: "single_label" as const,
    dimensions,
    labels,
    features: blocks,
    targets: { kind: "single" as const, indices: Int32Array.from(rows, ({ label }) => index.get(label) as number) },
    groups: Int32Array.from(rows, ({ text }) => {
      const group = groups.get(text) ?? groups.size;
      groups.set(text, group);
      return group;
    }),
    lexical: reader?.fit() ?? null,
  };
  const budget = { bytes: 1e9, operations: 1e14 };
  const steps = train(tensors, trainingSet, {
    l2: "auto",
    classWeight: null,
    seed: 1,
    lexical,
    evaluation: { method: "none" },
    budget,
  });
  let step = steps.next();
  while (!step.done) step = steps.next();
  if (!step.value.ok) throw new Error(step.value.failure.message);
  const { head } = step.value.value;
  const features = head.lexical === null ? null : createLexicalVectorizer(head.lexical);
  let correct = 0;
  for (const { text, label } of test) {
    const p = predict(head, encode(text), features === null ? null : features(text));
    let best = 0;
    for (let k = 1; k < p.length; k++) if ((p[k] as number) > (p[best] as number)) best = k;
    if (head.labels[best] === label) correct++;
  }
  return correct / test.length;
}
