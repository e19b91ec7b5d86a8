/** What a tenant can do that costs a shared server most, each in a thread of its own until it is stopped. */
import { once } from "node:events";
import { parentPort, Worker, workerData } from "node:worker_threads";
import { type Client, createClient } from "../../src/sdk/client.ts";
import { syntheticTexts } from "./synthetic.ts";

export interface AttackOptions {
  /** One of `attackNames`. */
  readonly name: string;
  readonly url: string;
  /** The attacking tenant's key. */
  readonly key: string;
}

interface Attacker extends AttackOptions {
  readonly graft: Client;
}

interface Attack {
  /** What it needs, which is not measured. */
  prepare?(attacker: Attacker): Promise<unknown>;
  readonly concurrency: number;
  /** One request. Refusals count as done: the server answers them. */
  send(attacker: Attacker, i: number, signal: AbortSignal): Promise<unknown>;
}

const IMPORTED_ROWS = 120_000;
const MEGABYTE = 1_000_000;

async function post({ url, key }: Attacker, path: string, body: string, signal: AbortSignal): Promise<void> {
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  const response = await fetch(url + path, { method: "POST", headers, body, signal });
  await response.arrayBuffer();
}

/** 47 MB of CSV. */
async function* importFile(signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const encoder = new TextEncoder();
  yield encoder.encode("text,label\n");
  for (let start = 0; start < IMPORTED_ROWS && !signal.aborted; start += 1_000) {
    const rows = Array.from(
      { length: 1_000 },
      (_, i) => `row ${start + i} ${"of an export ".repeat(29)},label ${i % 50}`,
    );
    yield encoder.encode(`${rows.join("\n")}\n`);
  }
}

const sendImport: Attack["send"] = async ({ graft }, i, signal) => {
  const name = `import-${i}-${Date.now()}`;
  await graft.datasets.create({ name, task: "single_label", modality: "text" });
  await graft.datasets.import(name, importFile(signal), "text/csv");
};

const trainingBody = JSON.stringify({
  name: "large",
  dataset: "large",
  backbone: "text-static-1",
  method: "head",
  hyperparameters: { lexical: true },
});

async function prepareTraining({ graft }: Attacker): Promise<void> {
  await graft.datasets.create({ name: "large", task: "single_label", modality: "text" });
  await graft.datasets.add(
    "large",
    syntheticTexts(5_000, 50).map(({ text, label }) => ({ text, label })),
  );
}

const attacks: Readonly<Record<string, Attack>> = {
  "8 trainings at once": {
    prepare: prepareTraining,
    concurrency: 8,
    send: (attacker, _, signal) => post(attacker, "/v1/heads", trainingBody, signal),
  },
  "trainings whose client hangs up": {
    prepare: prepareTraining,
    concurrency: 2,
    send: (attacker, _, signal) => {
      const hangUp = AbortSignal.any([signal, AbortSignal.timeout(500)]);
      return post(attacker, "/v1/heads", trainingBody, hangUp);
    },
  },
  "an import of 47 MB": { concurrency: 1, send: sendImport },
  "3 imports of 47 MB at once": { concurrency: 3, send: sendImport },
  "14 MB of nested brackets": {
    concurrency: 2,
    send: (attacker, _, signal) => {
      const body = "[".repeat(7 * MEGABYTE) + "]".repeat(7 * MEGABYTE);
      return post(attacker, "/v1/heads/none/predict", body, signal);
    },
  },
  "promotions with large answers": {
    prepare: async ({ graft }) => {
      const examples = syntheticTexts(900, 300).map(({ text, label }) => ({ text, label }));
      const evaluation = { method: "cross_validation" } as const;
      await graft.heads.train({ name: "many", examples, backbone: "text-static-1", method: "head", evaluation });
    },
    concurrency: 4,
    send: ({ graft }, i) => graft.heads.promote("many", 1, { idempotencyKey: `${Date.now()}-${i}` }),
  },
  "predictions of 15 MB": {
    prepare: async ({ graft }) => {
      const examples = syntheticTexts(200, 10).map(({ text, label }) => ({ text, label }));
      await graft.heads.train({
        name: "small",
        examples,
        backbone: "text-static-1",
        method: "head",
        evaluation: { method: "none" },
      });
    },
    concurrency: 4,
    send: (attacker, i, signal) => {
      const input = Array.from({ length: 480 }, (_, j) => `${i} ${j} ${"some words of a long text ".repeat(1_200)}`);
      return post(attacker, "/v1/heads/small/predict", JSON.stringify({ input }), signal);
    },
  },
  "wrong keys": {
    concurrency: 16,
    send: (attacker, i, signal) => post({ ...attacker, key: `gk_bench_${i}` }, "/v1/heads", "{}", signal),
  },
};

export const attackNames = Object.keys(attacks);

/** Starts an attack; resolves when it is prepared and its first requests are sent. `stop` tells how many were answered. */
export async function startAttack(workerData: AttackOptions): Promise<{ stop(): Promise<string> }> {
  const thread = new Worker(import.meta.filename, { workerData });
  await once(thread, "message");
  return {
    async stop() {
      thread.postMessage("stop");
      const [summary] = await once(thread, "message");
      await once(thread, "exit");
      return summary;
    },
  };
}

async function runAttack(options: AttackOptions, port: NonNullable<typeof parentPort>): Promise<void> {
  const attack = attacks[options.name];
  if (attack === undefined) throw new Error(`There is no attack ${options.name}.`);
  const attacker = { ...options, graft: createClient({ baseUrl: options.url, key: options.key }) };
  await attack.prepare?.(attacker);
  const end = new AbortController();
  const count = { answered: 0, failed: 0 };
  const loop = async (first: number) => {
    for (let i = first; !end.signal.aborted; i += attack.concurrency)
      await attack.send(attacker, i, end.signal).then(
        () => count.answered++,
        () => count.failed++,
      );
  };
  const loops = Array.from({ length: attack.concurrency }, (_, i) => loop(i));
  port.postMessage("started");
  port.once("message", () => end.abort());
  await Promise.all(loops);
  port.postMessage(`${count.answered} requests answered, ${count.failed} refused or cut off`);
}

if (parentPort) await runAttack(workerData as AttackOptions, parentPort);
