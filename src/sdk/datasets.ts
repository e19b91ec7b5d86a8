import type { DatasetChange, ExampleDeletion, LabelRename } from "../api/dataset-changes.ts";
import type { Dataset, ExportQuery, NewDataset } from "../api/datasets.ts";
import type { Example, ExampleChange, ExampleListQuery, LabelledExample } from "../api/examples.ts";
import type { DatasetImport, ImportQuery, ImportType } from "../api/imports.ts";
import type { DatasetIssue, IssueChange, IssueQuery, IssueResolution } from "../api/issues.ts";
import type { DeletedExample, DeletedObject, List, PageQuery } from "../api/lists.ts";
import type { DatasetDiff, DiffQuery, Revision } from "../api/revisions.ts";
import { type RequestOptions, resourcePath, type Transport } from "./transport.ts";

/** What an import sends. A stream (Node's `createReadStream` too) is sent as it is read, never whole in memory. */
type ImportBody = string | Blob | ReadableStream<Uint8Array> | AsyncIterable<Uint8Array>;

export function datasetCalls({ request, get, post, patch, delete: remove }: Transport) {
  return {
    create: (dataset: NewDataset, options?: RequestOptions) => post<Dataset>("/v1/datasets", dataset, options),
    list: (page: PageQuery = {}) => get<List<Dataset>>("/v1/datasets", { ...page }),
    get: (name: string) => get<Dataset>(resourcePath("datasets", name)),
    delete: (name: string) => remove<DeletedObject>(resourcePath("datasets", name)),
    /**
     * Adds labelled examples, which become visible all at once. Invalid rows are left out and reported. With
     * `on_error: "abort"` an invalid row means that nothing is stored, and the call throws.
     */
    async import(name: string, body: ImportBody, contentType: ImportType, query: ImportQuery = {}) {
      // The Fetch standard requires `duplex` with a stream. Not all of TypeScript's types have it.
      const requestBody = typeof body === "object" && Symbol.asyncIterator in body ? toStream(body) : body;
      const init = { headers: { "content-type": contentType }, body: requestBody, duplex: "half" } as RequestInit;
      const response = await request("POST", `${resourcePath("datasets", name)}/examples`, init, query);
      return response.json() as Promise<DatasetImport>;
    },
    /** Adds examples from memory. */
    add: (name: string, examples: readonly LabelledExample[]) =>
      post<DatasetImport>(`${resourcePath("datasets", name)}/examples`, { examples }),
    examples: (name: string, query: ExampleListQuery = {}) =>
      get<List<Example>>(`${resourcePath("datasets", name)}/examples`, { ...query }),
    example: (name: string, id: string) => get<Example>(examplePath(name, id)),
    changeExample: (name: string, id: string, change: ExampleChange) => patch<Example>(examplePath(name, id), change),
    deleteExample: (name: string, id: string) => remove<DeletedExample>(examplePath(name, id)),
    /** Deletes the examples that have one of `ids`, or `label`, or `contains` in their texts, or were added `before` a time. */
    deleteExamples: (name: string, deletion: ExampleDeletion, options?: RequestOptions) =>
      post<DatasetChange>(`${resourcePath("datasets", name)}/examples/delete`, deletion, options),
    /** Renames a label. Where another one has the name, the two become one. */
    renameLabel: (name: string, rename: LabelRename, options?: RequestOptions) =>
      post<DatasetChange>(`${resourcePath("datasets", name)}/labels/rename`, rename, options),
    /** Deletes a label with its examples. */
    deleteLabel: (name: string, label: string, options?: RequestOptions) =>
      post<DatasetChange>(`${resourcePath("datasets", name)}/labels/delete`, { label }, options),
    /** What is probably wrong with its examples, most likely first. The first page may take as long as a training. */
    issues: (name: string, query: IssueQuery = {}) =>
      get<List<DatasetIssue>>(`${resourcePath("datasets", name)}/issues`, { ...query }),
    /** Gives the examples of issues another label, deletes them, or dismisses the issues for good. */
    resolveIssues: (name: string, resolution: IssueResolution, options?: RequestOptions) =>
      post<IssueChange>(`${resourcePath("datasets", name)}/issues/resolve`, resolution, options),
    /** The revisions that are kept. */
    revisions: (name: string, page: PageQuery = {}) =>
      get<List<Revision>>(`${resourcePath("datasets", name)}/revisions`, { ...page }),
    /** What differs between two revisions. */
    diff: (name: string, query: DiffQuery) => get<DatasetDiff>(`${resourcePath("datasets", name)}/diff`, { ...query }),
    /** Every example, oldest first, as NDJSON or CSV. */
    async export(name: string, query: ExportQuery = {}): Promise<ReadableStream<Uint8Array>> {
      const { body } = await request("GET", `${resourcePath("datasets", name)}/export`, {}, { ...query });
      return body ?? new ReadableStream({ start: (controller) => controller.close() });
    },
  };
}

function examplePath(name: string, id: string): string {
  return `${resourcePath("datasets", name)}/examples/${encodeURIComponent(id)}`;
}

/** An iterable of bytes as a stream that fetch takes. Each chunk is read when the one before has been sent. */
function toStream(chunks: AsyncIterable<Uint8Array>): ReadableStream<Uint8Array> {
  const iterator = chunks[Symbol.asyncIterator]();
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await iterator.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    async cancel() {
      await iterator.return?.();
    },
  });
}
