/** The package's ES module bundle, which has no types. (Its "main" is CommonJS for Node only.) */
declare module "@tensorflow/tfjs-backend-wasm/dist/tf-backend-wasm.fesm.min.js" {
  export const BackendWasm: typeof import("@tensorflow/tfjs-backend-wasm/dist/backend_wasm").BackendWasm;
  export type BackendWasm = import("@tensorflow/tfjs-backend-wasm/dist/backend_wasm").BackendWasm;
}

/** The bundle of a Worker compiles it in advance. */
declare module "@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm-simd.wasm" {
  const module: WebAssembly.Module;
  export default module;
}
