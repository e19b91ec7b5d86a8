import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

/** Missing from the types of workerd, where compiling at run time is forbidden. */
const { compile } = WebAssembly as unknown as { compile(bytes: Uint8Array): Promise<WebAssembly.Module> };

/** The WASM module that `wasmTensors` needs, compiled from the installed package. A Worker imports it instead. */
export async function compileWasm(): Promise<WebAssembly.Module> {
  const require = createRequire(import.meta.url);
  const file = require.resolve("@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm-simd.wasm");
  return compile(await readFile(file));
}
