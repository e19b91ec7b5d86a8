import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, it } from "vitest";

const root = join(import.meta.dirname, "../..");

it("has in src/tensor/sparse.wasm what `npm run kernels` compiles", async () => {
  const { scripts } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as {
    scripts: { kernels: string };
  };
  const [compiler, ...options] = scripts.kernels.split(" ");
  const target = options.indexOf("--outFile") + 1;
  expect([compiler, options[target]]).toEqual(["asc", "src/tensor/sparse.wasm"]);
  const folder = await mkdtemp(join(tmpdir(), "kernels-"));
  try {
    const compiled = join(folder, "sparse.wasm");
    const asc = join(root, "node_modules/assemblyscript/bin/asc.js");
    await promisify(execFile)(process.execPath, [asc, ...options.with(target, compiled)], { cwd: root });
    expect(await readFile(compiled)).toEqual(await readFile(join(root, "src/tensor/sparse.wasm")));
  } finally {
    await rm(folder, { recursive: true });
  }
});
