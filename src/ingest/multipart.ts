/** Reads a `multipart/form-data` form as a stream. Its file is passed on as a stream; only the small fields are kept. */
import { Busboy, type BusboyInstance } from "@fastify/busboy";
import { bodyError } from "./body.ts";

/** Bounds of a form's other fields. */
const MAX_FIELD_BYTES = 1024;
const MAX_PARTS = 100;

/** The fields that are not files, by name. The last one of a name counts. */
export type FormFields = ReadonlyMap<string, string>;

/** Reads the file to its end, or throws. `fields` are those before the file. */
export type FileHandler<T> = (file: AsyncIterable<Uint8Array>, filename: string, fields: FormFields) => Promise<T>;

export interface Form<T> {
  readonly fields: FormFields;
  /** The result of the handler; null if the form has no such file. */
  readonly file: T | null;
}

/**
 * Reads a form, and passes the file in the field `name` to `handleFile`, no faster than that reads it. Other files are
 * skipped. Throws what `body` or `handleFile` throws, and a BodyError if the body is not a form or is incomplete.
 */
export async function readForm<T>(
  body: AsyncIterable<Uint8Array>,
  contentType: string,
  name: string,
  handleFile: FileHandler<T>,
): Promise<Form<T>> {
  const busboy = createParser(contentType, name);
  const fields = new Map<string, string>();
  let file: Promise<T> | null = null;
  let parts = 0;
  let destroyFile = (_error: unknown) => {};
  let failure: { readonly error: unknown } | null = null;
  let endWait = () => {};
  const failForm = (error: unknown) => {
    failure ??= { error };
    endWait();
  };
  busboy.on("field", (field, value) => {
    parts++;
    fields.set(field, value);
  });
  busboy.on("file", (field, stream, filename: string | undefined) => {
    parts++;
    // The file's reader gets the error too. An error event without a listener would be an uncaught exception.
    stream.on("error", () => undefined);
    if (field !== name || file !== null) return stream.resume();
    destroyFile = (error) => stream.destroy(error as Error);
    file = handleFile(stream, filename ?? "", fields);
    file.catch(failForm);
  });
  busboy.on("partsLimit", () => failForm(bodyError("invalid_parameter", `A form has at most ${MAX_PARTS} fields.`)));
  busboy.on("error", () => failForm(parts === 0 ? notAFormError() : incompleteFormError()));
  // For some malformed forms the parser finishes before their last byte has come.
  const finished = new Promise<void>((resolve) => busboy.once("finish", resolve));
  /** Waits until `start` calls `done`, or until the form or its file fails. */
  const runStep = async (start: (done: () => void) => void) => {
    await new Promise<void>((resolve) => {
      endWait = resolve;
      if (failure) resolve();
      else start(resolve);
    });
    if (failure) throw failure.error;
  };
  try {
    for await (const chunk of body) await runStep((done) => busboy.write(chunk, () => done()));
    await runStep((done) => {
      finished.then(done);
      busboy.end();
    });
    return { fields, file: await file };
  } catch (error) {
    destroyFile(error);
    await (file as Promise<T> | null)?.catch(() => undefined);
    throw error;
  }
}

function createParser(contentType: string, name: string): BusboyInstance {
  try {
    if (/^multipart\/form-data\s*;.*\bboundary="?[^";\s]/i.test(contentType))
      return new Busboy({
        headers: { "content-type": contentType },
        isPartAFile: (field, _type, filename) => field === name || filename !== undefined,
        preservePath: true,
        limits: { fieldSize: MAX_FIELD_BYTES, parts: MAX_PARTS },
      });
  } catch {
    // The boundary is too long.
  }
  const message = `Send a form with the field '${name}' as 'multipart/form-data', with the boundary that separates its fields.`;
  throw bodyError("unsupported_media_type", message, { param: "content-type" });
}

function notAFormError() {
  const message = "The body is not a form whose fields are separated by the boundary that 'content-type' names.";
  return bodyError("invalid_parameter", message, { param: "content-type" });
}

function incompleteFormError() {
  const message = "The form ends before the boundary that closes it. Nothing was stored; send it again, whole.";
  return bodyError("upload_incomplete", message);
}
