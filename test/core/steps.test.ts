import { describe, expect, it } from "vitest";
import { runSteps } from "../../src/core/steps.ts";

function* countTo(last: number, log: string[]) {
  for (let i = 1; i <= last; i++) {
    log.push(String(i));
    yield 10;
  }
  return "done";
}

describe("runSteps", () => {
  it("returns the result and the sum of the operations", async () => {
    expect(await runSteps(countTo(7, []), 1000, async () => {})).toEqual({ value: "done", operations: 70 });
    expect(await runSteps(countTo(0, []), 1000, async () => {})).toEqual({ value: "done", operations: 0 });
  });

  it("awaits a pause each time that so many operations are done, and counts anew", async () => {
    const log: string[] = [];
    const pause = async () => {
      await new Promise((resolve) => setTimeout(resolve, 0));
      log.push("pause");
    };
    await runSteps(countTo(5, log), 20, pause);
    expect(log).toEqual(["1", "2", "pause", "3", "4", "pause", "5"]);
  });

  it("pauses after so many steps, where each of them counts for more than it does", async () => {
    const log: string[] = [];
    const result = await runSteps(countTo(5, log), 200, async () => void log.push("pause"), 100);
    expect(log).toEqual(["1", "2", "pause", "3", "4", "pause", "5"]);
    expect(result.operations).toBe(50);
  });

  it("pauses before a step that would take more beyond the interval than is left of it", async () => {
    const log: string[] = [];
    await runSteps(countTo(4, log), 14, async () => void log.push("pause"));
    expect(log).toEqual(["1", "pause", "2", "pause", "3", "pause", "4", "pause"]);
    log.length = 0;
    await runSteps(countTo(4, log), 16, async () => void log.push("pause"));
    expect(log).toEqual(["1", "2", "pause", "3", "4", "pause"]);
  });

  it("pauses after every step where the interval is zero", async () => {
    const log: string[] = [];
    await runSteps(countTo(2, log), 0, async () => void log.push("pause"));
    expect(log).toEqual(["1", "pause", "2", "pause"]);
  });

  it("stops with the value that a pause resolves to", async () => {
    const log: string[] = [];
    let pauses = 0;
    const pause = async () => (++pauses === 2 ? "stopped" : undefined);
    expect(await runSteps(countTo(9, log), 10, pause)).toEqual({ value: "stopped", operations: 20 });
    expect(log).toEqual(["1", "2"]);
  });

  it("rejects with what a pause or a step throws", async () => {
    const pause = () => Promise.reject(new Error("cancelled"));
    await expect(runSteps(countTo(9, []), 10, pause)).rejects.toThrow("cancelled");
    // biome-ignore lint/correctness/useYield: it fails before its first step
    const failing = function* (): Generator<number, string, void> {
      throw new Error("broken");
    };
    await expect(runSteps(failing(), 10, async () => {})).rejects.toThrow("broken");
  });
});
