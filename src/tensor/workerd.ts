import module from "@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm-simd.wasm";
import type { TensorBackend } from "../core/tensors.ts";
import kernels from "./kernels.wasm";
import { wasmTensorBackend } from "./wasm.ts";

/** The WASM backend in workerd. Its modules are compiled with the Worker. */
export function workerdTensorBackend(): Promise<TensorBackend> {
  return wasmTensorBackend(module, kernels);
}
