import { formatDuration } from "./terminal.ts";

export interface Stopwatch {
  /** Name and milliseconds of each step, in order, also of one that failed. */
  readonly stepTimes: readonly (readonly [string, number])[];
  /** Runs a step, and shows on stderr how long it has been running, and what `work` says of its progress. */
  step<T>(name: string, work: (say: (progress: string) => void) => Promise<T>): Promise<T>;
}

export function makeStopwatch(): Stopwatch {
  const stepTimes: [string, number][] = [];
  const { isTTY } = process.stderr;
  return {
    stepTimes,
    async step(name, work) {
      const started = performance.now();
      const elapsed = () => performance.now() - started;
      let progress = "";
      const say = (text: string) => {
        progress = ` (${text})`;
      };
      const show = () => {
        const line = `${name} … ${formatDuration(elapsed())}${progress}`;
        process.stderr.write(isTTY ? `\r${line}\u001b[K` : `${line}\n`);
      };
      if (!isTTY) process.stderr.write(`${name} …\n`);
      const timer = setInterval(show, isTTY ? 100 : 2000);
      try {
        return await work(say);
      } finally {
        clearInterval(timer);
        if (isTTY) process.stderr.write("\r\u001b[K");
        stepTimes.push([name, elapsed()]);
      }
    },
  };
}
