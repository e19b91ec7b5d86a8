import type { File } from "../api/files.ts";
import type { FineTuningJob, FineTuningJobEvent, NewFineTuningJob } from "../api/jobs.ts";
import type { DeletedObject, List, PageQuery } from "../api/lists.ts";
import { type RequestOptions, resourcePath, type Transport } from "./transport.ts";

export function fileCalls({ request, get, delete: remove }: Transport) {
  return {
    /** Uploads a file to train on: JSONL of labelled examples, or of chats whose last message is the label. */
    async create(file: Blob, filename: string): Promise<File> {
      const form = new FormData();
      form.set("purpose", "fine-tune");
      form.set("file", file, filename);
      return (await request("POST", "/v1/files", { body: form })).json() as Promise<File>;
    },
    list: (page: PageQuery = {}) => get<List<File>>("/v1/files", { ...page }),
    get: (id: string) => get<File>(resourcePath("files", id)),
    delete: (id: string) => remove<DeletedObject>(resourcePath("files", id)),
  };
}

const jobPath = (id: string) => resourcePath("fine_tuning/jobs", id);

/** Fine-tuning jobs. OpenAI's client can call these routes as well. */
export function jobCalls({ get, post }: Transport) {
  return {
    create: (job: NewFineTuningJob, options?: RequestOptions) =>
      post<FineTuningJob>("/v1/fine_tuning/jobs", job, options),
    list: (page: PageQuery = {}) => get<List<FineTuningJob>>("/v1/fine_tuning/jobs", { ...page }),
    get: (id: string) => get<FineTuningJob>(jobPath(id)),
    events: (id: string, page: PageQuery = {}) => get<List<FineTuningJobEvent>>(`${jobPath(id)}/events`, { ...page }),
    cancel: (id: string) => post<FineTuningJob>(`${jobPath(id)}/cancel`, {}),
    pause: (id: string) => post<FineTuningJob>(`${jobPath(id)}/pause`, {}),
    resume: (id: string) => post<FineTuningJob>(`${jobPath(id)}/resume`, {}),
  };
}
