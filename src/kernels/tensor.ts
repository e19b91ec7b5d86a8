/** The kernels of src/tensor/wasm.ts. */
export { expandRows, multiply, multiplyTransposed, quantiseRows } from "./dense";
export { addSparseProduct, addTransposedProduct } from "./sparse";
