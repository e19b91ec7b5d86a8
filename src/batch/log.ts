/** The operator's log: it has no inputs, no secrets and no tokens. */

export type Log = (event: string, fields?: Readonly<Record<string, string | number>>) => void;

/** An error's code or name and its stack, without its message, which may quote an input. */
export function redactedStack(error: unknown): string {
  if (!(error instanceof Error)) return "unknown";
  const { code } = error as { code?: unknown };
  const frames = (error.stack ?? "").split("\n").filter((line) => /^\s+at /.test(line));
  return [typeof code === "string" ? code : error.name, ...frames.slice(0, 6)].join("\n");
}
