/** Calls the batch endpoint from the Worker: signed, with a time limit, each answer reduced to one of a few results. */

import { newId } from "../lib/id.ts";
import { parseRetryAfter } from "../lib/retry.ts";
import { readBodyPrefix } from "../webhooks/response-body.ts";
import { acknowledgement, type Stop, type Submission } from "./protocol.ts";
import { sign } from "./sign.ts";

export interface BatchEndpoint {
  /** `fetch`, for a path at the endpoint's address. */
  readonly send: (path: string, init: RequestInit) => Promise<Response>;
  readonly secret: string;
  readonly timeoutMs: number;
}

/** The result of a submission. `retryAfter` is the wait that the endpoint asked for, in milliseconds. */
export type SubmitResult =
  | { readonly type: "accepted" }
  | { readonly type: "ended"; readonly endpointRestarted: boolean }
  | { readonly type: "busy"; readonly retryAfter: number | null }
  | { readonly type: "unanswered"; readonly reason: string; readonly retryAfter: number | null }
  | { readonly type: "rejected"; readonly message: string };

const MAX_RESPONSE_BYTES = 10_000;

async function call(endpoint: BatchEndpoint, method: string, path: string, content: object) {
  const body = JSON.stringify(content);
  const id = newId("msg_");
  const headers = { "content-type": "application/json", ...sign(endpoint.secret, body, id, Date.now()) };
  const signal = AbortSignal.timeout(endpoint.timeoutMs);
  const response = await endpoint.send(path, { method, headers, body, signal, redirect: "manual" });
  return { response, text: new TextDecoder().decode(await readBodyPrefix(response, MAX_RESPONSE_BYTES)) };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Asks the batch endpoint to run an attempt. Repeating the call starts no second one. */
export async function submitAttempt(endpoint: BatchEndpoint, submission: Submission): Promise<SubmitResult> {
  const path = `/v1/jobs/${submission.id}/attempts/${submission.attempt}`;
  try {
    const { response, text } = await call(endpoint, "PUT", path, submission);
    const retryAfter = parseRetryAfter(response.headers.get("retry-after"), Date.now());
    const { status } = response;
    if (status === 200 || status === 202) {
      const answer = acknowledgement.safeParse(parseJson(text));
      if (!answer.success) return { type: "unanswered", reason: "its answer is not as agreed.", retryAfter };
      const { status, endpoint_restarted: endpointRestarted = false } = answer.data;
      return status === "running" ? { type: "accepted" } : { type: "ended", endpointRestarted };
    }
    if (status === 429) return { type: "busy", retryAfter };
    if (status === 422) return { type: "rejected", message: messageOf(text) };
    return { type: "unanswered", reason: `it answered ${status}.`, retryAfter };
  } catch (error) {
    const timedOut = error instanceof Error && error.name === "TimeoutError";
    return { type: "unanswered", reason: timedOut ? "no answer in time." : "it cannot be reached.", retryAfter: null };
  }
}

/**
 * What an endpoint answers that was told to end an attempt: it is `stopping`, or has `ended`; `endpoint_lost` if that ran in
 * an earlier process of the endpoint. `unanswered`: no answer as agreed.
 */
export type StopResult = "stopping" | "ended" | "endpoint_lost" | "unanswered";

/** Tells the batch endpoint to end an attempt. */
export async function stopAttempt(endpoint: BatchEndpoint, stop: Stop): Promise<StopResult> {
  const path = `/v1/jobs/${stop.id}/attempts/${stop.attempt}/stop`;
  const reply = await call(endpoint, "POST", path, stop).catch(() => null);
  const answer = reply?.response.ok ? acknowledgement.safeParse(parseJson(reply.text)).data : undefined;
  if (answer === undefined) return "unanswered";
  if (answer.status !== "ended") return "stopping";
  return answer.endpoint_restarted ? "endpoint_lost" : "ended";
}

function messageOf(text: string): string {
  const message = (parseJson(text) as { error?: { message?: unknown } } | null)?.error?.message;
  const reason = typeof message === "string" ? message : "it did not say why.";
  return `The batch endpoint refused the job: ${reason.slice(0, 500)}`;
}
