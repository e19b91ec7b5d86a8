import type {
  CapturedDeletion,
  CapturedInput,
  CapturedLabel,
  DeletedCaptured,
  HeadCapture,
  NewHeadCaptureRequest,
} from "../api/capture.ts";
import type { LabelledExample } from "../api/examples.ts";
import type { HeadFeedback, HeadPolicy, NewHeadPolicy } from "../api/feedback.ts";
import type { Head, HeadExport, NewHead } from "../api/heads.ts";
import type { FineTuningJob } from "../api/jobs.ts";
import type { InputsToLabel, LabelNextRequest } from "../api/label-next.ts";
import type { DeletedObject, List, PageQuery } from "../api/lists.ts";
import type { Predictions, PredictRequest } from "../api/predictions.ts";
import type { HeadTraffic, NewHeadTrafficRequest, TrafficReport } from "../api/traffic.ts";
import { type RequestOptions, resourcePath, type Transport } from "./transport.ts";

/** A head or a job. Under `auto`, data beyond the budget of one request makes a job; `fine_tune` always makes one. */
export type TrainResponse<T extends NewHead> = T extends { readonly method: "head" }
  ? Head
  : T extends { readonly method: "fine_tune" }
    ? FineTuningJob
    : Head | FineTuningJob;

const headPath = (name: string) => resourcePath("heads", name);

export function headCalls({ request, get, post, put, delete: remove }: Transport) {
  return {
    /**
     * Trains the next version of a head. Resolves when it is trained, evaluated and stored. Data beyond one request
     * makes a job, unless `method` is `head`; `fine_tune` always makes a job.
     */
    train: <const T extends NewHead>(head: T, options?: RequestOptions) =>
      post<TrainResponse<T>>("/v1/heads", head, options),
    list: (page: PageQuery = {}) => get<List<Head>>("/v1/heads", { ...page }),
    /** The active version, or the given one. */
    get: (name: string, version?: number) =>
      get<Head>(version === undefined ? headPath(name) : `${headPath(name)}/versions/${version}`),
    versions: (name: string, page: PageQuery = {}) => get<List<Head>>(`${headPath(name)}/versions`, { ...page }),
    /** A version's weights and labels, usable without this service. */
    export: (name: string, version: number) => get<HeadExport>(`${headPath(name)}/versions/${version}/export`),
    /** A page of HTML on a version, to read; with texts of examples unless `texts` is false. */
    async report(name: string, version: number, query: { readonly texts?: boolean } = {}): Promise<string> {
      const response = await request("GET", `${headPath(name)}/versions/${version}/report`, {}, query);
      return response.text();
    },
    delete: (name: string) => remove<DeletedObject>(headPath(name)),
    /** Makes a version the active one; everywhere within 30 seconds. */
    promote: (name: string, version: number, options?: RequestOptions) =>
      post<Head>(`${headPath(name)}/promote`, { version }, options),
    /** One prediction per input, in the inputs' order. */
    predict: (name: string, params: PredictRequest) => post<Predictions>(`${headPath(name)}/predict`, params),
    /** Which inputs of a pool to label next, the most useful first. */
    labelNext: (name: string, params: LabelNextRequest) => post<InputsToLabel>(`${headPath(name)}/label_next`, params),
    /** Teaches a head. A newer label of an input replaces the older one. */
    feedback: (name: string, examples: readonly LabelledExample[], options?: RequestOptions) =>
      post<HeadFeedback>(`${headPath(name)}/feedback`, { examples }, options),
    /** When the head trains again by itself. With `policy`, sets it. */
    policy: (name: string, policy?: NewHeadPolicy): Promise<HeadPolicy> =>
      policy === undefined ? get(`${headPath(name)}/policy`) : put(`${headPath(name)}/policy`, policy),
    /** Which versions answer, and which shadow them. With `traffic`, sets it; everywhere within 30 seconds. */
    traffic: (name: string, traffic?: NewHeadTrafficRequest): Promise<HeadTraffic> =>
      traffic === undefined ? get(`${headPath(name)}/traffic`) : put(`${headPath(name)}/traffic`, traffic),
    /** Which live inputs are captured. With `capture`, sets it, or ends it by null; everywhere within 30 seconds. */
    capture: (name: string, capture?: NewHeadCaptureRequest): Promise<HeadCapture> =>
      capture === undefined ? get(`${headPath(name)}/capture`) : put(`${headPath(name)}/capture`, capture),
    /** Live inputs that wait for a label. */
    captured: (name: string, page: PageQuery = {}) =>
      get<List<CapturedInput>>(`${headPath(name)}/captured`, { ...page }),
    /** Makes captured inputs examples of the dataset of the active version. */
    labelCaptured: (name: string, items: readonly CapturedLabel[], options?: RequestOptions) =>
      post<HeadFeedback>(`${headPath(name)}/captured/label`, { items }, options),
    deleteCaptured: (name: string, deletion: CapturedDeletion, options?: RequestOptions) =>
      post<DeletedCaptured>(`${headPath(name)}/captured/delete`, deletion, options),
    /** How the versions do on live inputs. */
    trafficReport: (name: string) => get<TrafficReport>(`${headPath(name)}/traffic/report`),
  };
}
