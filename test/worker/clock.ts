import { vi } from "vitest";
import type { Slot } from "../../src/training/slot.ts";

/** Makes `Date.now` run so many times as fast until mocks are restored. Timers keep their pace. */
export function speedUpClock(factor: number): void {
  const realNow = Date.now.bind(Date);
  const start = realNow();
  vi.spyOn(Date, "now").mockImplementation(() => start + factor * (realNow() - start));
}

/** Has a slot count as held by one that is alive, however fast the clock runs. */
export function keepHolderAlive(slot: Slot): void {
  if (slot.holder === null) throw new Error("nobody holds the slot");
  slot.holder.lastHeartbeat = Number.POSITIVE_INFINITY;
}
