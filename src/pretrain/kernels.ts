/** The kernels of pre-training, compiled from src/kernels/pretrain.ts on first use. */
import { join } from "node:path";

/** The arguments are numbers and byte offsets into the memory: see src/kernels/pretrain.ts. */
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
/** As many pages as a 32-bit offset can address. */
const MAX_PAGES = 65_536;
export const MAX_BYTES = PAGE * MAX_PAGES;
/** The first bytes belong to the kernels' own data. Everything else comes after them. */
export const RESERVED_BYTES = PAGE;

/** workerd's types lack this: workerd forbids compiling at run time. */
const { compile } = WebAssembly as unknown as { compile(bytes: Uint8Array): Promise<WebAssembly.Module> };

let compiled: Promise<WebAssembly.Module> | undefined;

/** Compiles the kernels once. Throws the compiler's messages if they do not compile. */
export function compileKernels(): Promise<WebAssembly.Module> {
  compiled ??= compileFromSource();
  return compiled;
}

async function compileFromSource(): Promise<WebAssembly.Module> {
  // The compiler is large. Threads get the compiled module and do not load it.
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

/** Shared memory of at least `bytes` bytes, which are at most MAX_BYTES. */
export function sharedMemory(bytes: number): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE), maximum: MAX_PAGES, shared: true });
}

/** Instantiates the compiled kernels on a memory. */
export async function instantiateKernels(module: WebAssembly.Module, memory: WebAssembly.Memory): Promise<Kernels> {
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  return exports as unknown as Kernels;
}
