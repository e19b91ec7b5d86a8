import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";

const program = join(import.meta.dirname, "..", "..", "src", "pretrain.ts");
const folder = mkdtempSync(join(tmpdir(), "graft-pretrain-"));
afterAll(() => rmSync(folder, { recursive: true }));

function runPretrain(...options: readonly string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...options], {
    cwd: folder,
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}

it("prints how it is used", () => {
  const { status, stdout, stderr } = runPretrain("--help");
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(stdout).toMatch(/^Usage: npm run backbone:train -- --data DIR /);
});

it.each([
  [["--dada", folder], "Unknown option '--dada'"],
  [["extra"], "Unexpected argument 'extra'. This command does not take positional arguments"],
  [["--steps"], "Option '--steps <value>' argument missing"],
  [["--steps", "0"], "--steps is '0', which is not a whole number from 1 to 10000000."],
  [["--steps", "1e3"], "--steps is '1e3', which is not a whole number from 1 to 10000000."],
  [["--seed=-1"], "--seed is '-1', which is not a whole number from 0 to 4294967295."],
  [["--threads", "many"], "--threads is 'many', which is not a whole number from 1 to 64."],
  [[], "--data is missing: the folder of the text to train on."],
  [["--data", "none"], "There is no folder 'none'."],
  [["--data", "."], "'sgd_turn_pairs.tsv.gz' is missing: models/text-static-1/CARD.md lists the data."],
])("tells what is wrong with %j in one line, and leaves nothing behind", (options, line) => {
  expect(runPretrain(...options)).toEqual({ status: 1, stdout: "", stderr: `${line}\n` });
  expect(readdirSync(folder)).toEqual([]);
});
