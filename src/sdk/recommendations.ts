import type { List, PageQuery } from "../api/lists.ts";
import type { NewRecommendation, Recommendation } from "../api/recommendations.ts";
import { type RequestOptions, resourcePath, type Transport } from "./transport.ts";

export function recommendationCalls({ get, post }: Transport) {
  return {
    /** Recommends a method for a dataset. With `measure` the status says when it is measured. */
    create: (params: NewRecommendation, options?: RequestOptions) =>
      post<Recommendation>("/v1/recommendations", params, options),
    list: (query: PageQuery & { readonly dataset?: string } = {}) =>
      get<List<Recommendation>>("/v1/recommendations", { ...query }),
    get: (id: string) => get<Recommendation>(resourcePath("recommendations", id)),
  };
}
