/** The kernels of src/kernels/finetune.ts, compiled by `npm run kernels`, in a memory of their own. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

const PAGE = 65_536;
const MAX_PAGES = 65_536;

/** Numbers and byte offsets into the memory, as src/kernels says for each kernel. */
type Kernel = (...values: number[]) => void;
type UpdateKernels = Record<"adam" | "adamRows" | "pull" | "pullRows" | "shrink", Kernel>;
type ConvolutionKernels = Record<"multiply" | "logSumRows" | "maxPool" | "convolutionBack", Kernel>;
type TransformerKernels = Record<
  | "product"
  | "productByTransposed"
  | "productOfTransposed"
  | "lookUp"
  | "addBias"
  | "add"
  | "relu"
  | "reluBack"
  | "sumColumns"
  | "dropOut"
  | "normalise"
  | "normaliseBack"
  | "attend"
  | "attendBack"
  | "pool"
  | "poolBack",
  Kernel
>;
export type Kernels = Readonly<
  UpdateKernels & ConvolutionKernels & TransformerKernels & { sumSquares: (count: number, x: number) => number }
>;

/** A memory that is reserved piece by piece, and kernels that work in it. */
export interface Workspace {
  readonly kernels: Kernels;
  /** Reserves `count` numbers of four bytes, all zero. Answers their byte offset, a multiple of 16. May detach views. */
  reserve(count: number): number;
  floats(offset: number, count: number): Float32Array;
  integers(offset: number, count: number): Int32Array;
}

/** workerd's types lack it, because compiling at run time is forbidden there. */
const { Module } = WebAssembly as unknown as { Module: new (bytes: Uint8Array) => WebAssembly.Module };
let compiled: WebAssembly.Module | undefined;

/** A workspace with its own memory, which is freed with it. Reserving more than 4 GiB throws. */
export function makeWorkspace(): Workspace {
  compiled ??= new Module(readFileSync(join(import.meta.dirname, "kernels.wasm")));
  const memory = new WebAssembly.Memory({ initial: 1, maximum: MAX_PAGES });
  const { exports } = new WebAssembly.Instance(compiled, { env: { memory } });
  // The first page may hold the module's own data.
  let end = PAGE;
  return {
    kernels: exports as unknown as Kernels,
    reserve(count) {
      const start = end;
      end = Math.ceil((end + 4 * count) / 16) * 16;
      const missing = Math.ceil((end - memory.buffer.byteLength) / PAGE);
      if (missing > 0) memory.grow(missing);
      return start;
    },
    floats: (offset, count) => new Float32Array(memory.buffer, offset, count),
    integers: (offset, count) => new Int32Array(memory.buffer, offset, count),
  };
}
