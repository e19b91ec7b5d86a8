import type { EvaluationError, EvaluationErrorType, EvaluationRun, NewEvaluationRun } from "../api/evaluations.ts";
import type { List, PageQuery } from "../api/lists.ts";
import { type RequestOptions, resourcePath, type Transport } from "./transport.ts";

export function evaluationCalls({ get, post }: Transport) {
  return {
    /** Tests a version of a head on a dataset, and compares it with another version. */
    create: (run: NewEvaluationRun, options?: RequestOptions) => post<EvaluationRun>("/v1/evaluations", run, options),
    list: (query: PageQuery & { readonly head?: string; readonly dataset?: string } = {}) =>
      get<List<EvaluationRun>>("/v1/evaluations", { ...query }),
    get: (id: string) => get<EvaluationRun>(resourcePath("evaluations", id)),
    /** Examples with truth and prediction: by default those that are predicted wrong. */
    errors: (id: string, query: PageQuery & { readonly type?: EvaluationErrorType } = {}) =>
      get<List<EvaluationError>>(`${resourcePath("evaluations", id)}/errors`, { ...query }),
  };
}
