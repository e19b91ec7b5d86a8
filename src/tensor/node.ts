import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import type { TensorBackend } from "../core/tensors.ts";
import { wasmTensorBackend } from "./wasm.ts";

/** The types of workerd lack it, because compiling at run time is forbidden there. */
const { compile } = WebAssembly as unknown as { compile(bytes: Uint8Array): Promise<WebAssembly.Module> };

/** The WASM backend in Node. It compiles the module of the installed package. */
export async function nodeTensorBackend(): Promise<TensorBackend> {
  const file = createRequire(import.meta.url).resolve(
    "@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm-simd.wasm",
  );
  const kernels = join(import.meta.dirname, "kernels.wasm");
  return wasmTensorBackend(await compile(await readFile(file)), await compile(await readFile(kernels)));
}
