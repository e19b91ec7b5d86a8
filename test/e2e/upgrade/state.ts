/** What the state folder of an earlier build was made with, and what that build answered. */
import type { Dataset, File, Head, HeadPolicy, Prediction } from "../../../src/sdk/client.ts";

export const ADMIN_KEY = "operator";
export const workerVariables = {
  BATCH_SECRET: `whsec_${Buffer.from("the batch secret of the fixture.").toString("base64")}`,
  WEBHOOK_TIMEOUT_SECONDS: "2",
};

export function remoteBackbones(url: string): string {
  return JSON.stringify([{ kind: "openai", id: "remote", base_url: url, model: "m", dimensions: 4 }]);
}

export interface ExpectedState {
  readonly key: string;
  /** Where the webhooks went. */
  readonly receiver: string;
  readonly secret: string;
  /** The ids of all events, none of which has arrived. */
  readonly events: readonly string[];
  readonly prediction: { readonly input: string; readonly answer: Prediction | undefined };
  readonly head: Head;
  readonly policy: HeadPolicy;
  readonly dataset: Dataset;
  readonly file: File;
  readonly job: string;
  readonly hook: { readonly path: string; readonly message: object; readonly answer: object };
  readonly idempotent: { readonly key: string; readonly body: object; readonly answer: object };
  /** Unix seconds. */
  readonly takenAt: number;
}
