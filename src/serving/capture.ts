/**
 * Captures live inputs for a head's queue, in the isolate's memory, which does no I/O. The first input of a tenant that is not
 * yet written has the isolate write some seconds later what has come by then. The ledger takes each input once, so what got
 * no answer is sent again.
 *
 * Whether an input is of the share that is kept is decided by a hash of it, of its own for each head: so what comes often is
 * not kept for that, a repeated request changes nothing, and versions that share the traffic are kept alike.
 */
import type { CapturedPrediction } from "../api/capture.ts";
import type { Input } from "../api/examples.ts";
import type { Prediction } from "../api/predictions.ts";
import { checkText, toStoredExample } from "../ingest/example.ts";
import { shortHash } from "../lib/hash.ts";
import type { Capture, NewCapturedInput } from "../tenant/heads/capture.ts";
import type { ServedHead } from "../tenant/heads/served-heads.ts";
import { getLedger } from "../tenant/tenant.ts";
import type { PredictedInputs } from "./predict.ts";
import type { TenantRequest } from "./tenant-request.ts";
import { MAX_DELAY_MS, waitToWrite } from "./write-delay.ts";

const MAX_TRIES = 3;
const RETRY_MS = 2_000;
/** Of an isolate and of a tenant, until they are written, as texts of two bytes a character. Further ones are not captured. */
const MAX_BYTES = 1_000_000;
const MAX_TENANT_BYTES = 500_000;
/** Of an input beside itself. */
const INPUT_BYTES = 500;
const MAX_LABELS = 20;

interface Buffer {
  /** By head and input. */
  readonly inputs: Map<string, { readonly head: string; readonly captured: NewCapturedInput }>;
  bytes: number;
  readonly writeDueAt: number;
}

const buffers = new Map<string, Buffer>();
/** Of all buffers, and of what is being written. */
let heldBytes = 0;

/** Captures the inputs that were answered and are of the share, or have a low score. */
export function captureInputs(
  request: TenantRequest,
  capture: Capture,
  head: ServedHead,
  inputs: readonly Input[],
  { predictions, counted }: PredictedInputs,
): void {
  for (const [i, input] of inputs.entries()) {
    const prediction = predictions[i];
    const example = toExample(input);
    if (prediction === undefined || example === null) continue;
    const score = counted[i]?.top?.score;
    const isLow = capture.max_score !== undefined && score !== undefined && score < capture.max_score;
    if (!isLow && shareOf(head.id, example.groupHash) >= capture.sampling_rate) continue;
    const { input: content, inputHash, groupHash } = example;
    addInput(request, head.id, {
      input: content,
      inputHash,
      groupHash,
      version: head.version,
      prediction: toCaptured(prediction, score),
      predictedAt: Date.now(),
    });
  }
}

/** The input as it would be an example's. */
function toExample(input: Input): Pick<NewCapturedInput, "input" | "inputHash" | "groupHash"> | null {
  const fields = typeof input === "string" ? { text: input } : input;
  if ("image" in fields) return null;
  if ("embedding" in fields) return toStoredExample(null, Float32Array.from(fields.embedding), "");
  const checked = checkText(fields.text, "", true);
  return checked.ok ? toStoredExample(null, checked.value.text, "") : null;
}

/** A number in [0, 1) for an input of a head. */
function shareOf(head: string, groupHash: Uint8Array): number {
  const hash = shortHash("capture", head, groupHash);
  return new DataView(hash.buffer, hash.byteOffset).getUint32(0) / 2 ** 32;
}

function toCaptured({ label, labels, value, in_scope }: Prediction, score: number | undefined): CapturedPrediction {
  return {
    ...(label === undefined ? {} : { label }),
    ...(labels === undefined ? {} : { labels: labels.slice(0, MAX_LABELS) }),
    ...(value === undefined ? {} : { value }),
    ...(score === undefined ? {} : { score }),
    ...(typeof in_scope === "boolean" ? { in_scope } : {}),
  };
}

function addInput(request: TenantRequest, head: string, captured: NewCapturedInput): void {
  const { tenant } = request;
  const now = Date.now();
  let buffer = buffers.get(tenant);
  // One that is long overdue has ended with its request.
  if (buffer === undefined || now > buffer.writeDueAt + MAX_DELAY_MS) {
    heldBytes -= buffer?.bytes ?? 0;
    const wait = waitToWrite(request.env);
    buffer = { inputs: new Map(), bytes: 0, writeDueAt: now + wait };
    buffers.set(tenant, buffer);
    request.waitUntil(writeLater(request, buffer, wait));
  }
  const key = `${head} ${Buffer.from(captured.groupHash).toString("base64")}`;
  const bytes = INPUT_BYTES + 2 * captured.input.length;
  const hasRoom = heldBytes + bytes <= MAX_BYTES && buffer.bytes + bytes <= MAX_TENANT_BYTES;
  if (!hasRoom || buffer.inputs.has(key)) return;
  buffer.inputs.set(key, { head, captured });
  buffer.bytes += bytes;
  heldBytes += bytes;
}

async function writeLater({ env, tenant }: TenantRequest, buffer: Buffer, wait: number): Promise<void> {
  await scheduler.wait(wait);
  // What is captured from here on has a buffer of its own.
  if (buffers.get(tenant) !== buffer) return;
  buffers.delete(tenant);
  try {
    for (const [head, inputs] of Map.groupBy(buffer.inputs.values(), ({ head }) => head)) {
      const captured = inputs.map((input) => input.captured);
      for (let tries = 0; tries < MAX_TRIES; tries++) {
        if (tries > 0) await scheduler.wait(RETRY_MS);
        if (await sendInputs(env, tenant, head, captured)) break;
      }
    }
  } finally {
    heldBytes -= buffer.bytes;
  }
}

/** Answers whether the ledger has answered. A tenant or a head that is gone takes none. */
async function sendInputs(
  env: Cloudflare.Env,
  tenant: string,
  head: string,
  captured: readonly NewCapturedInput[],
): Promise<boolean> {
  try {
    await getLedger(env.TENANT, tenant).recordCaptured(head, captured);
    return true;
  } catch {
    return false;
  }
}
