/**
 * Kills the Worker and the batch endpoint 200 times (kill -9), at random times, while jobs of five tenants run,
 * and counts the jobs that end in a state that they should not, are promoted twice or do not tell what happened, and what
 * is left in R2 that nothing needs, or lacks there.
 *
 *   npm run bench -- chaos
 */
import { seededRandom } from "../src/core/random.ts";
import { findStorageErrors, killRandomly, startChaosSystem } from "../test/e2e/chaos.ts";
import { noPeer, type Row } from "./report.ts";

const KILLS = 200;
const TENANTS = 5;
/** Between a process being back and the next kill: half of it on average, about three times what a job takes. */
const LONGEST_PAUSE_MS = 4_000;
/** Longer than either takes to be back. */
const SILENCE_SECONDS = 8;

export async function run(): Promise<Row[]> {
  const { system, tenants } = await startChaosSystem(TENANTS, SILENCE_SECONDS);
  try {
    const started = Date.now();
    const onKill = (kills: number) => kills % 20 === 0 && console.error(`${kills} kills …`);
    const report = await killRandomly(system, tenants, KILLS, seededRandom(1), LONGEST_PAUSE_MS, onKill);
    const storageReports = await Promise.all(tenants.map((tenant) => findStorageErrors(system, tenant)));
    const orphans = storageReports.flatMap((each) => [...each.orphans, ...each.missing]);
    for (const each of [...report.errors, ...orphans]) console.error(each);
    const row = (
      measure: string,
      value: number,
      unit = "",
      target: string | null = null,
      met: boolean | null = null,
    ) => ({
      case: `${KILLS} kills`,
      measure,
      value,
      unit,
      ...noPeer,
      target,
      met,
    });
    return [
      row("kills of the Worker", report.kills.worker),
      row("kills of the batch endpoint", report.kills.batch),
      row("jobs", report.jobs),
      row("succeeded, one version each", report.succeeded),
      row("failed, after three lost attempts each", report.failed),
      row("lost attempts", report.lostAttempts),
      row(
        "jobs in a wrong state, promoted twice or without their events",
        report.errors.length,
        "",
        "0",
        report.errors.length === 0,
      ),
      row("orphans in R2 after the sweep", orphans.length, "", "0", orphans.length === 0),
      row("time", (Date.now() - started) / 60_000, "min"),
    ];
  } finally {
    await system.close();
  }
}
