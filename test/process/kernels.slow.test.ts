import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, it } from "vitest";

const root = join(import.meta.dirname, "../..");

it.each(["src/tensor/kernels.wasm", "src/finetune/kernels.wasm", "src/backbones/sentence-encoder/kernels.wasm"])(
  "%s is what `npm run kernels` compiles",
  async (file) => {
    const { scripts } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as {
      scripts: { kernels: string };
    };
    const command = scripts.kernels.split(" && ").find((script) => script.includes(file));
    const [compiler, ...options] = command?.split(" ") ?? [];
    const target = options.indexOf("--outFile") + 1;
    expect([compiler, options[target]]).toEqual(["asc", file]);
    const folder = await mkdtemp(join(tmpdir(), "kernels-"));
    try {
      const compiled = join(folder, "compiled.wasm");
      const asc = join(root, "node_modules/assemblyscript/bin/asc.js");
      await promisify(execFile)(process.execPath, [asc, ...options.with(target, compiled)], { cwd: root });
      expect(await readFile(compiled)).toEqual(await readFile(join(root, file)));
    } finally {
      await rm(folder, { recursive: true });
    }
  },
);
