/** OpenAI's chats, whose last message is the label. */
import { z } from "@hono/zod-openapi";
import { schemaFailure } from "../api/validation.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import type { Annotation } from "./annotation.ts";

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

/** A chat as an example: its text is the messages before the last one, without the system's. */
export function readChat(raw: unknown): Result<Annotation> {
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
  return ok({ text: texts.join("\n"), labels: getText(lastMessage) });
}

function getText({ content }: z.infer<typeof message>): string | undefined {
  return typeof content === "object" ? content?.map(({ text }) => text).join("") : content;
}
