import module from "@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm-simd.wasm";
import type { Tensors } from "../core/tensors.ts";
import sparse from "./sparse.wasm";
import { wasmTensors } from "./wasm.ts";

/** The WASM backend in workerd, where the module is compiled with the Worker. */
export function workerdTensors(): Promise<Tensors> {
  return wasmTensors(module, sparse);
}
