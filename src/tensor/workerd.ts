import module from "@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm-simd.wasm";
import type { TensorBackend } from "../core/tensors.ts";
import kernels from "./kernels.wasm";
import { replaceWasmTensorBackend, wasmTensorBackend } from "./wasm.ts";

/** A backend starts with less. */
export const IDLE_BYTES = 20_000_000;

/** The WASM backend in workerd. Its modules are compiled with the Worker. */
export function workerdTensorBackend(): Promise<TensorBackend> {
  return wasmTensorBackend(module, kernels);
}

/** Gives back the memory of a backend that nothing uses any more, if it has grown beyond `IDLE_BYTES`. */
export async function shrinkWorkerdTensorBackend(backend: TensorBackend): Promise<void> {
  if (backend.memory().bytes > IDLE_BYTES) await replaceWasmTensorBackend(module, kernels);
}
