/** The kernels of src/tensor/wasm.ts. */
export { factoriseRows, invertRows, multiplyInverse } from "./cholesky";
export { expandRows, multiply, multiplyTransposed, quantiseRows } from "./dense";
export { addSparseProduct, addTransposedProduct } from "./sparse";
