/** Reads training files. A line is a labelled example, or one of OpenAI's chats whose last message is the label. */
import { z } from "@hono/zod-openapi";
import { schemaFailure } from "../api/validation.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { type ExampleShape, inferShape, parseExample } from "./example.ts";
import { type BadRow, type GoodRow, readNdjson } from "./rows.ts";

/** A line: valid, with the shape of all valid lines; invalid; or null for an empty line. */
export type TrainingRow = (GoodRow & { readonly shape: ExampleShape }) | BadRow | null;

/**
 * The lines of a file as examples, in order. The file is never whole in memory. Every line must have the given shape; if
 * that is null, the shape of the first valid line.
 */
export async function* readTrainingFile(
  body: AsyncIterable<Uint8Array>,
  shape: ExampleShape | null,
): AsyncGenerator<TrainingRow> {
  let fileShape = shape;
  const parse = (raw: unknown) => {
    const example = isChat(raw) ? readChat(raw) : ok(raw);
    if (!example.ok) return example;
    const expectedShape = fileShape ?? inferShape(Object(example.value));
    const parsed = parseExample(example.value, expectedShape, "");
    if (parsed.ok) fileShape = expectedShape;
    return parsed;
  };
  for await (const row of readNdjson(body, parse)) {
    if (row === null || "error" in row) yield row;
    // The first valid line has set the shape.
    else yield { ...row, shape: fileShape as ExampleShape };
  }
}

const message = z.object({
  role: z.string(),
  content: z
    .union([z.string(), z.array(z.object({ type: z.literal("text"), text: z.string() }))], {
      error: "a message's content is a text, or a list of parts of the type 'text'",
    })
    .nullish(),
});
/** Other fields of a chat, such as weights and tools, are ignored. */
const chat = z.object({ messages: z.array(message) });

function isChat(raw: unknown): boolean {
  return typeof raw === "object" && raw !== null && "messages" in raw;
}

/** A chat as an example: its text is the messages before the last one, without the system's. */
function readChat(raw: unknown): Result<{ text: string; label: string | undefined }> {
  const parsed = chat.safeParse(raw);
  if (!parsed.success) return { ok: false, failure: schemaFailure(parsed.error, raw, "The chat") };
  const { messages } = parsed.data;
  const lastMessage = messages.at(-1);
  const promptMessages = messages.slice(0, -1).filter(({ role }) => role !== "system" && role !== "developer");
  if (lastMessage?.role !== "assistant" || !promptMessages.some(({ role }) => role === "user")) {
    const message =
      "A chat has a message of the role 'user', and ends with one of the role 'assistant', which is its label.";
    return fail("invalid_parameter", message, { param: "messages" });
  }
  const texts = promptMessages.map(getText).filter((text) => text !== undefined);
  return ok({ text: texts.join("\n"), label: getText(lastMessage) });
}

function getText({ content }: z.infer<typeof message>): string | undefined {
  return typeof content === "object" ? content?.map(({ text }) => text).join("") : content;
}
