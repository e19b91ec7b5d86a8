/** What the Worker may call on a ledger for fine-tuning jobs. */
import type { PageRequest } from "../../api/lists.ts";
import { fail, ok } from "../../core/failure.ts";
import { readRows } from "../data/training-sets.ts";
import type { NewRun } from "../heads/evaluations.ts";
import { commitHeadIfStored } from "../heads/methods.ts";
import type { Transactions } from "../transactions.ts";
import * as attempts from "./attempts.ts";
import { getJobRules } from "./job-runner.ts";
import * as jobs from "./jobs.ts";
import * as lifecycle from "./lifecycle.ts";
import * as log from "./log.ts";
import * as versionTest from "./version-test.ts";

export const jobMethods = {
  createJob: (ledger: Transactions, claim: string | null, id: string, spec: jobs.JobSpec, status: number) =>
    ledger.change((sql, now) => lifecycle.createJob(sql, id, spec, now), { claim, status }),
  getJob: (ledger: Transactions, id: string) =>
    ledger.read((sql) => {
      const job = jobs.findVisibleJob(sql, id);
      return job.ok ? ok(jobs.toJob(job.value)) : job;
    }),
  listJobs: (ledger: Transactions, request: PageRequest) => ledger.read((sql) => jobs.listJobs(sql, request)),
  listJobEvents: (ledger: Transactions, id: string, request: PageRequest) =>
    ledger.read((sql) => log.listJobEvents(sql, id, request)),
  listCheckpoints: (ledger: Transactions, id: string, request: PageRequest) =>
    ledger.read((sql) => log.listCheckpoints(sql, id, request)),
  commandJob: (ledger: Transactions, claim: string | null, id: string, command: lifecycle.JobCommand) =>
    ledger.change((sql, now) => lifecycle.commandJob(sql, id, command, now, getJobRules(ledger.env)), {
      claim,
      status: 200,
    }),

  /** What the current attempt at a job is to do; refused to any other attempt. */
  getCurrentAttempt: (ledger: Transactions, id: string, attempt: number) =>
    ledger.read((sql) => {
      const job = attempts.getCurrentAttempt(sql, id, attempt);
      return job.ok ? ok(job.value.spec) : job;
    }),
  /** The same, after a check that the job's examples still exist. If they do not, the job fails and the answer is null. */
  checkJobData: (ledger: Transactions, id: string, attempt: number) =>
    ledger.change((sql, now) => {
      const job = attempts.getCurrentAttempt(sql, id, attempt);
      return job.ok ? ok(attempts.checkJobData(sql, job.value, now, getJobRules(ledger.env))) : job;
    }),
  /** The next rows of the dataset that a job trains on, or is compared on, oldest first; an empty list at the end. */
  readJobRows: (
    ledger: Transactions,
    id: string,
    attempt: number,
    afterPosition: number,
    rows: "training" | "test" = "training",
  ) =>
    ledger.read((sql) => {
      const job = attempts.getCurrentAttempt(sql, id, attempt);
      if (!job.ok) return job;
      const { source, measurement } = job.value.spec;
      if (rows === "test") {
        const test = measurement?.test ?? null;
        if (test === null) return fail("not_found", "This job has no test set.");
        return readRows(sql, test.id, afterPosition, test.revision);
      }
      if (source.kind === "dataset") return readRows(sql, source.id, afterPosition, source.revision);
      return fail("not_found", "This job trains on a file.");
    }),
  /** What to test of a job that has ended; fails if it was tested already. */
  getVersionTest: (ledger: Transactions, id: string) => ledger.read((sql) => versionTest.getVersionTest(sql, id)),
  /** Stores the test of a job's version, and promotes the version if the test says so. */
  commitVersionTest: (ledger: Transactions, id: string, run: NewRun) =>
    ledger.change((sql, now) => versionTest.commitVersionTest(sql, id, run, now, getJobRules(ledger.env))),

  receiveMessage: (ledger: Transactions, message: attempts.AttemptMessage) =>
    ledger.change((sql, now) => {
      const directive = attempts.receiveMessage(sql, message, now, getJobRules(ledger.env));
      return ledger.isSuspended ? attempts.pauseAttempt(directive) : directive;
    }),
  finishJob: (ledger: Transactions, result: attempts.AttemptResult) =>
    commitHeadIfStored(ledger, result.head, result.layers, () =>
      ledger.change((sql, now) => attempts.finishJob(sql, result, now, getJobRules(ledger.env))),
    ),
};
