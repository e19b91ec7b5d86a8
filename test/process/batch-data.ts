/** Jobs and data for tests of the batch endpoint: small sets that a head learns. */
import { randomBytes } from "node:crypto";
import { seededRandom } from "../../src/core/random.ts";
import type { Submission } from "../../src/jobs/protocol.ts";
import type { DataRow } from "./fake-worker.ts";

const topics = {
  money: ["card", "charge", "refund", "invoice", "price", "bank"],
  travel: ["flight", "hotel", "train", "ticket", "luggage", "passport"],
  food: ["pizza", "salad", "kitchen", "recipe", "dinner", "bread"],
};
export type Topic = keyof typeof topics;

export function newJobId(): string {
  return `ftjob-${randomBytes(16).toString("hex")}`;
}

export function makeSubmission(overrides: Partial<Submission> = {}): Submission {
  return {
    object: "batch.job",
    id: newJobId(),
    attempt: 1,
    tenant: "acme",
    token: `gb_${randomBytes(8).toString("hex")}`,
    created_at: 1_700_000_000,
    task: "single_label",
    modality: "text",
    backbone: { id: "hash-text-1", revision: "1" },
    dimensions: 384,
    out_of_scope_label: null,
    trainable: "head",
    hyperparameters: { l2: "auto", class_weight: null, lexical: "auto", seed: 1 },
    evaluation: { method: "auto" },
    edge_budget: { bytes: 56_000_000, operations: 800_000_000_000 },
    checkpoint: null,
    heartbeat_seconds: 5,
    ...overrides,
  };
}

/** Texts of a few topics, every fifth of them held out. */
export function makeTexts(
  count: number,
  targetOf: (topic: Topic, i: number) => DataRow["target"] = (topic) => topic,
): DataRow[] {
  const random = seededRandom(count);
  const names = Object.keys(topics) as Topic[];
  return Array.from({ length: count }, (_, i) => {
    const topic = names[i % names.length] as Topic;
    const words = Array.from({ length: 5 }, () => topics[topic][Math.floor(random() * 6)]);
    return { text: `${words.join(" ")} ${i}`, target: targetOf(topic, i), group: `g${i}`, held_out: i % 5 === 0 };
  });
}

/** Embeddings of eight dimensions, whose first tells the value. */
export function makeEmbeddings(count: number, targetOf: (value: number) => DataRow["target"]): DataRow[] {
  const random = seededRandom(count);
  return Array.from({ length: count }, (_, i) => {
    const row = Float32Array.from({ length: 8 }, () => random() - 0.5);
    const embedding = Buffer.from(row.buffer).toString("base64");
    return { embedding, target: targetOf(row[0] as number), group: `g${i}`, held_out: i % 5 === 0 };
  });
}

export const embeddingOptions = { modality: "embedding", backbone: null, dimensions: 8 } as const;

/** An embedding as numbers. */
export function decodeFloats(embedding: string | undefined): Float32Array {
  return new Float32Array(new Uint8Array(Buffer.from(embedding ?? "", "base64")).buffer);
}
