import type { EmbeddingRequest, Embeddings } from "../api/embeddings.ts";
import type { DeletedObject } from "../api/lists.ts";
import type { Model, ModelList } from "../api/models.ts";
import { resourcePath, type Transport } from "./transport.ts";

export function modelCalls({ get, delete: remove }: Transport) {
  return {
    list: () => get<ModelList>("/v1/models"),
    get: (id: string) => get<Model>(resourcePath("models", id)),
    /** Deletes a model that a fine-tuning job made. Refused while heads need it. */
    delete: (id: string) => remove<DeletedObject>(resourcePath("models", id)),
  };
}

export function embeddingCalls({ post }: Transport) {
  return { create: (params: EmbeddingRequest) => post<Embeddings>("/v1/embeddings", params) };
}
