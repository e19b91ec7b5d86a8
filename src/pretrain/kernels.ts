/** The training's kernels, compiled from src/kernels/pretrain.ts when they are first needed. */
import { join } from "node:path";
import asc from "assemblyscript/asc";

type Numbers = (...values: number[]) => void;

export interface Kernels {
  readonly sumRows: Numbers;
  readonly adam: Numbers;
  readonly adamRows: Numbers;
  readonly normalise: Numbers;
  readonly normaliseBack: Numbers;
  readonly multiply: Numbers;
  readonly logSumRows: Numbers;
  readonly logSumColumns: Numbers;
  readonly contrastiveGradient: Numbers;
  readonly softmaxGradient: Numbers;
}

const PAGE = 65_536;

export async function compileKernels(): Promise<Uint8Array<ArrayBuffer>> {
  const base = join(import.meta.dirname, "..", "kernels");
  let bytes: Uint8Array | null = null;
  const { error, stderr } = await asc.main(
    [
      "pretrain.ts",
      "--baseDir",
      base,
      "--outFile",
      "pretrain.wasm",
      ...["-O3", "--noAssert", "--runtime", "stub", "--enable", "simd", "--enable", "threads"],
      ...["--importMemory", "--sharedMemory", "--initialMemory", "1", "--maximumMemory", `${PAGE}`],
    ],
    { writeFile: (_name, contents) => void (bytes = contents as Uint8Array) },
  );
  if (error !== null || bytes === null) throw new Error(`The kernels do not compile: ${stderr.toString()}`);
  return new Uint8Array(bytes);
}

/** Shared memory of at least so many bytes. */
export function sharedMemory(bytes: number): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE), maximum: PAGE, shared: true });
}

export async function kernelsOn(wasm: Uint8Array<ArrayBuffer>, memory: WebAssembly.Memory): Promise<Kernels> {
  const { instance } = await WebAssembly.instantiate(wasm, { env: { memory, abort: () => undefined } });
  return instance.exports as unknown as Kernels;
}
