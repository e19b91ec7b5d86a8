/** The training's kernels, compiled from src/kernels/pretrain.ts when they are first needed. */
import { join } from "node:path";

/** Numbers and byte offsets into the memory, as src/kernels/pretrain.ts says for each kernel. */
type Kernel = (...values: number[]) => void;

export interface Kernels {
  readonly sumRows: Kernel;
  readonly adam: Kernel;
  readonly adamRows: Kernel;
  readonly normalise: Kernel;
  readonly normaliseBack: Kernel;
  readonly multiply: Kernel;
  readonly logSumRows: Kernel;
  readonly logSumColumns: Kernel;
  readonly contrastiveGradient: Kernel;
  readonly softmaxGradient: Kernel;
}

const PAGE = 65_536;
/** The memory's pages that a 32-bit offset can reach. */
const MAX_PAGES = 65_536;
export const MAX_BYTES = PAGE * MAX_PAGES;
/** Where the kernels' own data may lie: what shares the memory with them begins after it. */
export const RESERVED_BYTES = PAGE;

/** Missing from the types of workerd, where compiling at run time is forbidden. */
const { compile } = WebAssembly as unknown as { compile(bytes: Uint8Array): Promise<WebAssembly.Module> };

let compiled: Promise<WebAssembly.Module> | undefined;

/** The kernels, compiled once. Throws, with the compiler's messages, where they are wrong. */
export function compileKernels(): Promise<WebAssembly.Module> {
  compiled ??= compileFromSource();
  return compiled;
}

async function compileFromSource(): Promise<WebAssembly.Module> {
  // The compiler is large, and threads do without.
  const { default: asc } = await import("assemblyscript/asc");
  const outputs: Uint8Array[] = [];
  const { error, stderr } = await asc.main(
    [
      ...["pretrain.ts", "--baseDir", join(import.meta.dirname, "..", "kernels"), "--outFile", "pretrain.wasm"],
      ...["-O3", "--noAssert", "--runtime", "stub", "--enable", "simd", "--enable", "threads"],
      ...["--importMemory", "--sharedMemory", "--initialMemory", "1", "--maximumMemory", `${MAX_PAGES}`],
    ],
    {
      writeFile: (_name, contents) => {
        outputs.push(contents as Uint8Array);
      },
    },
  );
  const [wasm] = outputs;
  if (error !== null || wasm === undefined) throw new Error(`The kernels do not compile: ${stderr.toString()}`);
  return compile(wasm);
}

/** Shared memory of at least so many bytes, at most MOST_BYTES. */
export function sharedMemory(bytes: number): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE), maximum: MAX_PAGES, shared: true });
}

/** The compiled kernels, working on a memory. */
export async function instantiateKernels(module: WebAssembly.Module, memory: WebAssembly.Memory): Promise<Kernels> {
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  return exports as unknown as Kernels;
}
