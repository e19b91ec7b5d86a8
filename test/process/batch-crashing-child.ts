/** A process that ends without a word, in the way that the job's tenant is called. */
import type { ParentMessage } from "../../src/batch/attempt/child.ts";

process.on("message", (message: ParentMessage) => {
  const tenant = message.type === "setup" ? message.setup.submission.tenant : "";
  if (tenant === "is killed") process.kill(process.pid, "SIGKILL");
  if (tenant === "exits") process.exit(0);
  const retainedRows: string[][] = [];
  for (;;) retainedRows.push(Array.from({ length: 100_000 }, (_, i) => `${retainedRows.length} ${i}`));
});
