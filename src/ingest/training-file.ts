/** Reads files to train on: a line is a labelled example, or one of OpenAI's chats whose last message is the label. */
import { z } from "@hono/zod-openapi";
import { schemaFailure } from "../api/validation.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { type ExampleShape, inferShape, parseExample } from "./example.ts";
import { type BadRow, type GoodRow, readNdjson } from "./rows.ts";

/** A line: a good one with the shape that all good ones have, a bad one, or null for one with nothing on it. */
export type TrainingRow = (GoodRow & { readonly shape: ExampleShape }) | BadRow | null;

/**
 * The lines of a file as examples, in order, never whole in memory. Each must have this shape, or where it is null that
 * of the first good one.
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
    // A good row has decided it.
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
/** What else a chat has, such as weights and tools, is passed over. */
const chat = z.object({ messages: z.array(message) });

function isChat(raw: unknown): boolean {
  return typeof raw === "object" && raw !== null && "messages" in raw;
}

/** The example that a chat stands for: what was said before the last message, the system's words left out. */
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
