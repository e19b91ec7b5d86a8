/** A WASM file imported by a Worker is compiled with it. */
declare module "*.wasm" {
  const module: WebAssembly.Module;
  export default module;
}
