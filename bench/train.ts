/**
 * Fits heads in workerd and with scikit-learn's LogisticRegression (lbfgs, 64-bit floats, one thread) on the same arrays.
 * Ours stops at its shipped tolerance. scikit-learn gets the smallest max_iter that reaches the same relative gap to the
 * optimum. Runs of both alternate, so that changes of the machine's speed affect both.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { buildWorker, type Server, serve } from "../src/server/runtime.ts";
import { type Peer, startPeer } from "./shared/python-peer.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { median, pairedRatio, spreadOf } from "./shared/statistics.ts";
import { makeClassification, type Shape } from "./shared/synthetic.ts";

export const runs = 7;
const MAX_GAP = 1e-4;
const MAX_RATIO = 0.7;
const SHAPES = [
  { rows: 385, dimensions: 256, classes: 77 },
  { rows: 1000, dimensions: 384, classes: 77 },
  { rows: 5000, dimensions: 384, classes: 77 },
  { rows: 10_000, dimensions: 384, classes: 150 },
] as const;
const FULL_TRAININGS = [
  { rows: 640, dimensions: 384, classes: 64, seconds: 1 },
  { rows: 10_000, dimensions: 384, classes: 64, seconds: 3 },
  { rows: 15_000, dimensions: 384, classes: 150, seconds: 8 },
] as const;

/** Our time, its ratio to scikit-learn's, and the relative gap of our head's objective. */
export async function run(): Promise<Row[]> {
  const folder = mkdtempSync(`${tmpdir()}/bench-train-`);
  await buildWorker(`${folder}/worker`, `${import.meta.dirname}/workers/train.ts`);
  const options = { port: 0, stateDir: `${folder}/state`, adminKey: "", log: () => undefined, exposeRuntime: true };
  const worker = await serve(`${folder}/worker`, options);
  const peer = startPeer<Answer>("train.py");
  const rows: Row[] = [];
  try {
    for (const shape of SHAPES) {
      const data = makeClassification(shape);
      await uploadData(worker, shape, data);
      writeFileSync(`${folder}/x`, data.features);
      writeFileSync(`${folder}/y`, data.labels);
      await peer.request({ do: "load", x: `${folder}/x`, y: `${folder}/y`, ...shape });
      for (const c of [1, 10]) rows.push(...(await compare(worker, peer, folder, shape, c)));
    }
    for (const shape of FULL_TRAININGS) {
      await uploadData(worker, shape, makeClassification(shape));
      rows.push(await measureFullTraining(worker, shape));
    }
  } finally {
    peer.stop();
    await worker.stop();
    rmSync(folder, { recursive: true });
  }
  return rows;
}

type Answer = Record<string, number>;

interface Fit {
  readonly milliseconds: number;
  readonly iterations: number;
  readonly longest: number;
  readonly bytes: number;
}

function describeShape({ rows, dimensions, classes }: Shape): string {
  return `${rows} × ${dimensions}, ${classes} classes`;
}

async function compare(worker: Server, peer: Peer<Answer>, folder: string, shape: Shape, c: number): Promise<Row[]> {
  const name = `${describeShape(shape)}, C = ${c}`;
  const { iterations } = await peer.request({ do: "prepare", c, gap: MAX_GAP });
  const ours: number[] = [];
  const peers: number[] = [];
  for (let i = -1; i < runs; i++) {
    const fit = await requestFit<Fit>(worker, `c=${c}`);
    const peerFit = await peer.request({ do: "fit", c, iterations });
    if (i < 0) continue;
    ours.push(fit.milliseconds);
    peers.push(peerFit.milliseconds ?? Number.NaN);
  }
  const head = Buffer.from(await (await fetch(`${worker.url}/head`)).arrayBuffer());
  const weights = shape.classes * shape.dimensions * 4;
  writeFileSync(`${folder}/w`, head.subarray(0, weights));
  writeFileSync(`${folder}/b`, head.subarray(weights));
  const { gap = Number.NaN } = await peer.request({ do: "evaluate", c, weights: `${folder}/w`, bias: `${folder}/b` });
  const { ratio, spread } = pairedRatio(ours, peers);
  const scikit = `scikit-learn, ${iterations} iterations`;
  console.log(
    `${name}: ${median(ours).toFixed(1)} ms, ${ratio.toFixed(2)} of scikit-learn's, gap ${gap.toExponential(1)}`,
  );
  return [
    {
      case: name,
      measure: "fit",
      value: median(ours),
      unit: "ms",
      peer: scikit,
      peer_value: median(peers),
      ratio,
      spread,
      target: `ratio ≤ ${MAX_RATIO}`,
      met: ratio <= MAX_RATIO,
    },
    makeRow({
      case: name,
      measure: "relative objective gap",
      value: gap,
      target: `≤ ${MAX_GAP}`,
      met: gap <= MAX_GAP,
    }),
  ];
}

/** A whole training as in a request: the choice of l2, evaluation, calibration and the final fit. */
async function measureFullTraining(worker: Server, shape: Shape & { seconds: number }): Promise<Row> {
  const times: number[] = [];
  for (let i = -1; i < 3; i++) {
    const { milliseconds } = await requestFit<Fit>(worker, "auto");
    if (i >= 0) times.push(milliseconds / 1000);
  }
  const value = median(times);
  console.log(`${describeShape(shape)}, whole training: ${value.toFixed(2)} s`);
  return makeRow({
    case: describeShape(shape),
    measure: "whole training",
    value,
    unit: "s",
    spread: spreadOf(times),
    target: `≤ ${shape.seconds} s`,
    met: value <= shape.seconds,
  });
}

async function uploadData(
  worker: Server,
  shape: Shape,
  data: { features: Float32Array<ArrayBuffer>; labels: Int32Array<ArrayBuffer> },
): Promise<void> {
  const body = Buffer.concat([Buffer.from(data.features.buffer), Buffer.from(data.labels.buffer)]);
  await fetch(`${worker.url}/load?rows=${shape.rows}&dimensions=${shape.dimensions}`, {
    method: "POST",
    body,
  });
}

async function requestFit<T>(worker: Server, query: string): Promise<T> {
  const response = await fetch(`${worker.url}/fit?${query}`);
  if (!response.ok) throw new Error(await response.text());
  return (await response.json()) as T;
}
