/** Reads a form of `multipart/form-data` as it comes: the file in it is a stream, and only the small fields are kept. */
import { Busboy, type BusboyInstance } from "@fastify/busboy";
import { refuse } from "../http/middleware/body.ts";

/** What a form may have beside its file. */
const FIELD_BYTES = 1024;
const PARTS = 100;

/** What the form has besides files, by name; the last of a name counts. */
export type Fields = ReadonlyMap<string, string>;

/** Reads the file to its end, or throws; `fields` are those that came before it. */
export type TakeFile<T> = (file: AsyncIterable<Uint8Array>, filename: string, fields: Fields) => Promise<T>;

export interface Form<T> {
  readonly fields: Fields;
  /** What `take` answered; null where the form has no such file. */
  readonly file: T | null;
}

/**
 * Reads a form whose file is in the field `name`, and gives that to `take`, no faster than `take` reads it; other files
 * are passed over. Throws what `body` or `take` throws, and a BodyRefused where the form is none or breaks off.
 */
export async function readForm<T>(
  body: AsyncIterable<Uint8Array>,
  contentType: string,
  name: string,
  take: TakeFile<T>,
): Promise<Form<T>> {
  const form = parser(contentType, name);
  const fields = new Map<string, string>();
  let file: Promise<T> | null = null;
  let parts = 0;
  let abandon = (_error: unknown) => {};
  let failure: { readonly error: unknown } | null = null;
  let wake = () => {};
  const stop = (error: unknown) => {
    failure ??= { error };
    wake();
  };
  form.on("field", (field, value) => {
    parts++;
    fields.set(field, value);
  });
  form.on("file", (field, stream, filename: string | undefined) => {
    parts++;
    // Its reader gets the error as well, and none may be left without a listener.
    stream.on("error", () => undefined);
    if (field !== name || file !== null) return stream.resume();
    abandon = (error) => stream.destroy(error as Error);
    file = take(stream, filename ?? "", fields);
    file.catch(stop);
  });
  form.on("partsLimit", () => stop(refuse("invalid_parameter", `A form has at most ${PARTS} fields.`)));
  form.on("error", () => stop(parts === 0 ? noForm() : brokenOff()));
  // Some forms that are not well-formed have ended for the parser before their last byte has come.
  const ended = new Promise<void>((resolve) => form.once("finish", resolve));
  /** Waits for `done`, or until the form or its file fails. */
  const step = async (begin: (done: () => void) => void) => {
    await new Promise<void>((resolve) => {
      wake = resolve;
      if (failure) resolve();
      else begin(resolve);
    });
    if (failure) throw failure.error;
  };
  try {
    for await (const chunk of body) await step((done) => form.write(chunk, () => done()));
    await step((done) => {
      ended.then(done);
      form.end();
    });
    return { fields, file: await file };
  } catch (error) {
    abandon(error);
    await (file as Promise<T> | null)?.catch(() => undefined);
    throw error;
  }
}

function parser(contentType: string, name: string): BusboyInstance {
  try {
    if (/^multipart\/form-data\s*;.*\bboundary="?[^";\s]/i.test(contentType))
      return new Busboy({
        headers: { "content-type": contentType },
        isPartAFile: (field, _type, filename) => field === name || filename !== undefined,
        preservePath: true,
        limits: { fieldSize: FIELD_BYTES, parts: PARTS },
      });
  } catch {
    // With a boundary that is too long to be one.
  }
  const message = `Send a form with the field '${name}' as 'multipart/form-data', with the boundary that separates its fields.`;
  throw refuse("unsupported_media_type", message, { param: "content-type" });
}

function noForm() {
  const message = "The body is not a form whose fields are separated by the boundary that 'content-type' names.";
  return refuse("invalid_parameter", message, { param: "content-type" });
}

function brokenOff() {
  const message = "The form ends before the boundary that closes it. Nothing was stored; send it again, whole.";
  return refuse("upload_incomplete", message);
}
