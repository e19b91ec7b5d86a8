/** The package's ES module bundle (its "main" is CommonJS for Node alone), which lacks types. */
declare module "@tensorflow/tfjs-backend-wasm/dist/tf-backend-wasm.fesm.min.js" {
  export const BackendWasm: typeof import("@tensorflow/tfjs-backend-wasm/dist/backend_wasm").BackendWasm;
  export type BackendWasm = import("@tensorflow/tfjs-backend-wasm/dist/backend_wasm").BackendWasm;
}

/** A Worker's bundle compiles it ahead. */
declare module "@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm-simd.wasm" {
  const module: WebAssembly.Module;
  export default module;
}
