/** A process that ends without a word, in the way that the job's tenant is called. */
import type { Heard } from "../../src/batch/attempt/child.ts";

process.on("message", (heard: Heard) => {
  const tenant = heard.type === "setup" ? heard.setup.submission.tenant : "";
  if (tenant === "is killed") process.kill(process.pid, "SIGKILL");
  if (tenant === "exits") process.exit(0);
  const kept: string[][] = [];
  for (;;) kept.push(Array.from({ length: 100_000 }, (_, i) => `${kept.length} ${i}`));
});
