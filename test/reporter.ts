/**
 * Prints failures, a line for each project and the summary. The log lines of the Worker, workerd's warnings about
 * exceptions that tests expect and whatever else is printed go to a file, which is named where a test fails.
 */
import { Console } from "node:console";
import { mkdirSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { Writable } from "node:stream";
import type { UserConsoleLog } from "vitest";
import {
  MinimalReporter,
  type SerializedError,
  type TestModule,
  type TestRunEndReason,
  type TestSpecification,
  type Vitest,
} from "vitest/node";

const LOG_FILE = join("node_modules", ".cache", "test.log");

/** What Vitest ends with on a terminal. */
const SHOW_CURSOR = "\x1b[?25h";

interface Progress {
  filesLeft: number;
  tests: number;
  readonly startedAt: number;
}

export default class TestReporter extends MinimalReporter {
  #logFile = 0;
  #testName = "";
  readonly #progress = new Map<string, Progress>();

  constructor() {
    super({ silent: true });
  }

  override onInit(vitest: Vitest): void {
    mkdirSync(join(vitest.config.root, "node_modules", ".cache"), { recursive: true });
    this.#logFile = openSync(join(vitest.config.root, LOG_FILE), "w");
    // workerd's warnings and what child processes print come straight to this process's streams.
    vitest.logger.console = new Console(this.#redirect(process.stdout), this.#redirect(process.stderr));
    super.onInit(vitest);
  }

  /** Sends what is written to a stream of this process to the log file; answers a stream that still prints. */
  #redirect(stream: NodeJS.WriteStream): Writable {
    const print = stream.write.bind(stream);
    stream.write = (chunk: string | Uint8Array, ...rest: unknown[]) => {
      if (SHOW_CURSOR === chunk) return print(chunk);
      writeSync(this.#logFile, String(chunk));
      const done = rest.at(-1);
      if (typeof done === "function") done();
      return true;
    };
    return new Writable({ decodeStrings: false, write: (chunk, _encoding, done) => print(chunk, () => done()) });
  }

  override onUserConsoleLog({ taskId = "", content }: UserConsoleLog): void {
    const task = this.ctx.state.idMap.get(taskId);
    const name = task === undefined ? taskId : `${task.file.name} > ${this.getTestName(task)}`;
    if (name !== this.#testName) writeSync(this.#logFile, `\n${name}\n`);
    this.#testName = name;
    writeSync(this.#logFile, content);
  }

  override onTestRunStart(specifications: readonly TestSpecification[]): void {
    super.onTestRunStart(specifications);
    this.#progress.clear();
    for (const { project } of specifications) {
      const progress = this.#progress.get(project.name) ?? { filesLeft: 0, tests: 0, startedAt: Date.now() };
      progress.filesLeft++;
      this.#progress.set(project.name, progress);
    }
  }

  override onTestModuleEnd(module: TestModule): void {
    super.onTestModuleEnd(module);
    const progress = this.#progress.get(module.project.name);
    if (progress === undefined) return;
    progress.tests += [...module.children.allTests()].length;
    if (--progress.filesLeft > 0) return;
    const seconds = Math.round((Date.now() - progress.startedAt) / 1000);
    this.log(` ${module.project.name}: all files done, ${progress.tests} tests, ${seconds} s after the start`);
  }

  override onTestRunEnd(modules: readonly TestModule[], errors: readonly SerializedError[], reason: TestRunEndReason) {
    super.onTestRunEnd(modules, errors, reason);
    if (reason === "failed") this.log(`  What the tests logged is in ${LOG_FILE}.\n`);
  }
}
