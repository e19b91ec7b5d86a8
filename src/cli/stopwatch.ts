import { formatDuration } from "./terminal.ts";

export interface Stopwatch {
  /** Name and milliseconds of each step, in order, also of one that failed. */
  readonly stepTimes: readonly (readonly [string, number])[];
  /** Runs a step and shows on stderr how long it has been running. */
  step<T>(name: string, work: () => Promise<T>): Promise<T>;
}

export function makeStopwatch(): Stopwatch {
  const stepTimes: [string, number][] = [];
  const { isTTY } = process.stderr;
  return {
    stepTimes,
    async step(name, work) {
      const started = performance.now();
      const elapsed = () => performance.now() - started;
      const show = () =>
        process.stderr.write(
          isTTY ? `\r${name} … ${formatDuration(elapsed())}\u001b[K` : `${name} … ${formatDuration(elapsed())}\n`,
        );
      if (!isTTY) process.stderr.write(`${name} …\n`);
      const timer = setInterval(show, isTTY ? 100 : 2000);
      try {
        return await work();
      } finally {
        clearInterval(timer);
        if (isTTY) process.stderr.write("\r\u001b[K");
        stepTimes.push([name, elapsed()]);
      }
    },
  };
}
