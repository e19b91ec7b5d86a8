/**
 * Kills the Worker and the batch endpoint 200 times (kill -9), at random times, while jobs of five tenants run. Counts the
 * jobs that end in a wrong state, are promoted twice or lack an event, and the objects in R2 that nothing refers to or that
 * are missing.
 *
 *   npm run bench -- chaos [--kills 200]
 */
import { seededRandom } from "../src/core/random.ts";
import { findStorageErrors, killRandomly, startChaosSystem } from "../test/e2e/chaos.ts";
import { readOptions } from "./shared/options.ts";
import { makeRow, type Row } from "./shared/report.ts";

const TENANTS = 5;
/** The longest pause between a restart and the next kill. Half of it, the mean, is about three times a job's time. */
const LONGEST_PAUSE_MS = 4_000;
/** Longer than a restart of either takes. */
const SILENCE_SECONDS = 8;

export async function run(): Promise<Row[]> {
  const killCount = Number(readOptions().kills);
  const { system, tenants } = await startChaosSystem(TENANTS, SILENCE_SECONDS);
  try {
    const started = Date.now();
    const onKill = (kills: number) => kills % 20 === 0 && console.error(`${kills} kills …`);
    const report = await killRandomly(system, tenants, killCount, seededRandom(1), LONGEST_PAUSE_MS, onKill);
    const storageReports = await Promise.all(tenants.map((tenant) => findStorageErrors(system, tenant)));
    const orphans = storageReports.flatMap((each) => [...each.orphans, ...each.missing]);
    for (const each of [...report.errors, ...orphans]) console.error(each);
    const name = `${killCount} kills`;
    const row = (measure: string, value: number, unit = "") => makeRow({ case: name, measure, value, unit });
    const zeroRow = (measure: string, value: number) =>
      makeRow({ case: name, measure, value, target: "0", met: value === 0 });
    return [
      row("kills of the Worker", report.kills.worker),
      row("kills of the batch endpoint", report.kills.batch),
      row("jobs", report.jobs),
      row("succeeded, one version each", report.succeeded),
      row("failed, after three lost attempts or five lost endpoints each", report.failed),
      row("lost attempts", report.lostAttempts),
      zeroRow("jobs in a wrong state, promoted twice or without their events", report.errors.length),
      zeroRow("orphans in R2 after the sweep", orphans.length),
      row("time", (Date.now() - started) / 60_000, "min"),
    ];
  } finally {
    await system.close();
  }
}
