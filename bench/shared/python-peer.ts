/** scikit-learn for comparison: a Python process that reads a JSON command a line and answers each with a line of JSON. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";

export interface Peer<Answer> {
  request(command: object): Promise<Answer>;
  stop(): void;
}

/** Starts a script of bench/peers, on one thread. */
export function startPeer<Answer>(script: string): Peer<Answer> {
  const python = spawn("/usr/bin/python3", [join(import.meta.dirname, "..", "peers", script)], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, OPENBLAS_NUM_THREADS: "1", OMP_NUM_THREADS: "1" },
  });
  const lines = createInterface({ input: python.stdout })[Symbol.asyncIterator]();
  return {
    async request(command) {
      python.stdin.write(`${JSON.stringify(command)}\n`);
      const { value, done } = await lines.next();
      if (done) throw new Error("scikit-learn's process ended; the benchmark needs python3-sklearn.");
      return JSON.parse(value) as Answer;
    },
    stop: () => python.kill(),
  };
}
