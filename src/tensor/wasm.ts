import { BackendWasm } from "@tensorflow/tfjs-backend-wasm/dist/tf-backend-wasm.fesm.min.js";
import createModule, { type BackendWasmModule } from "@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm.js";
import {
  memory,
  registerBackend,
  removeBackend,
  setBackend,
  type Tensor1D,
  type Tensor2D,
  type TensorInfo,
  tensor1d,
  tensor2d,
} from "@tensorflow/tfjs-core";
import { checkShapes, checkSparseRows } from "../core/linear/sparse.ts";
import type { Matrix, SparseMatrix, TensorBackend } from "../core/tensors.ts";
import { type CholeskyKernels, type CholeskyMemory, findRowBasis, invertMatrix } from "./cholesky.ts";

/** The part of Emscripten's module that is used here. Emscripten's types are not installed. */
type EmscriptenModule = BackendWasmModule & {
  readonly HEAPU8: Uint8Array;
  cwrap(name: string, returns: "number" | null, takes: "number"[]): (...values: number[]) => number;
};

let backendPromise: Promise<TensorBackend> | null = null;

type Kernel = (...values: number[]) => void;
/** The kernels of src/kernels/tensor.ts. They work in the backend's memory. */
type Kernels = CholeskyKernels &
  Record<
    "multiply" | "multiplyTransposed" | "quantiseRows" | "expandRows" | "addSparseProduct" | "addTransposedProduct",
    Kernel
  >;

/** Columns that the dense kernels pack beside each other. */
const PANEL_COLUMNS = 8;

/**
 * The WASM backend of TensorFlow.js, for workerd and Node. There is one backend in a process, which every call returns.
 *
 * @param module the compiled `@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm-simd.wasm`
 * @param kernels the compiled `kernels.wasm` of this folder, which `npm run kernels` builds
 */
export function wasmTensorBackend(module: WebAssembly.Module, kernels: WebAssembly.Module): Promise<TensorBackend> {
  // The next call retries a start that failed.
  backendPromise ??= startBackend(module, kernels).catch((error) => {
    backendPromise = null;
    throw error;
  });
  return backendPromise;
}

/**
 * Puts a new backend in the place of one whose memory has grown, and which cannot shrink. Nothing may use the
 * old one any more.
 */
export async function replaceWasmTensorBackend(module: WebAssembly.Module, kernels: WebAssembly.Module): Promise<void> {
  backendPromise = null;
  // At once, because TensorFlow.js holds the old memory until another backend has started. The next call retries a failure.
  await wasmTensorBackend(module, kernels).catch(() => undefined);
}

/** workerd must not compile WASM at run time, so the backend cannot load itself as it does in a browser. */
async function startBackend(module: WebAssembly.Module, kernels: WebAssembly.Module): Promise<TensorBackend> {
  let env: WebAssembly.ModuleImports = {};
  const emscripten = (await withoutProcessListeners(() =>
    createModule({
      instantiateWasm(imports: WebAssembly.Imports, done: (instance: WebAssembly.Instance) => void) {
        const instance = new WebAssembly.Instance(module, imports);
        env = { memory: instance.exports.memory as WebAssembly.Memory };
        done(instance);
        return instance.exports;
      },
    }),
  )) as EmscriptenModule;
  const call = emscripten.cwrap;
  emscripten.tfjs = {
    init: call("init", null, []),
    initWithThreadsCount: call("init_with_threads_count", null, ["number"]),
    getThreadsCount: call("get_threads_count", "number", []),
    registerTensor: call("register_tensor", null, ["number", "number", "number"]),
    disposeData: call("dispose_data", null, ["number"]),
    dispose: call("dispose", null, []),
  };
  const backend = new BackendWasm(emscripten);
  removeBackend("wasm");
  registerBackend("wasm", () => backend);
  await setBackend("wasm");
  return createBackend(backend, emscripten, new WebAssembly.Instance(kernels, { env }).exports as Kernels);
}

/** Removes the handlers that Emscripten adds in Node: they rethrow every uncaught error of the process. */
async function withoutProcessListeners<T>(run: () => Promise<T>): Promise<T> {
  const events = ["uncaughtException", "unhandledRejection"] as const;
  const previousListeners = events.map((event) => new Set(process.listeners(event as never)));
  const result = await run();
  events.forEach((event, i) => {
    for (const listener of process.listeners(event as never)) {
      if (!previousListeners[i]?.has(listener)) process.removeListener(event, listener);
    }
  });
  return result;
}

function createBackend(backend: BackendWasm, emscripten: EmscriptenModule, kernels: Kernels): TensorBackend {
  const matrices = new Map<Matrix, Tensor2D>();
  const quantisedMatrices = new Map<Matrix | SparseMatrix, { codes: Tensor1D; scales: Tensor1D }>();
  const sparseMatrices = new Map<Matrix | SparseMatrix, { starts: Tensor1D; columns: Tensor1D; values: Tensor1D }>();

  const tensorOf = (matrix: Matrix): Tensor2D => {
    const tensor = matrices.get(matrix);
    if (tensor === undefined) throw new Error("This matrix has been freed or belongs to another backend.");
    return tensor;
  };

  const sparseOf = (sparse: SparseMatrix) => {
    const tensors = sparseMatrices.get(sparse);
    if (tensors === undefined) throw new Error("These rows have been freed or belong to another backend.");
    return tensors;
  };

  const heapValues = (tensor: TensorInfo) => backend.typedArrayFromHeap(tensor) as Float32Array;
  const offsetOf = (tensor: TensorInfo) => heapValues(tensor).byteOffset;

  /** Runs `work` with memory for so many floats, and then releases it. */
  const withScratch = <T>(length: number, work: (scratch: TensorInfo) => T): T => {
    const scratch = backend.makeOutput([length], "float32");
    const result = work(scratch);
    backend.disposeData(scratch.dataId);
    return result;
  };

  /** Runs `work` with a matrix's floats: its own, or those of its codes while it runs. */
  const withFloats = <T>(a: Matrix, work: (floats: TensorInfo) => T): T => {
    const quantised = quantisedMatrices.get(a);
    if (quantised === undefined) return work(tensorOf(a));
    return withScratch(a.rows * a.columns, (floats) => {
      kernels.expandRows(a.rows, a.columns, ...[quantised.codes, quantised.scales, floats].map(offsetOf));
      return work(floats);
    });
  };

  const read = (a: Matrix): Float32Array => withFloats(a, (floats) => heapValues(floats).slice());

  const sparseOffsets = (sparse: SparseMatrix): number[] => {
    const { starts, columns, values } = sparseOf(sparse);
    return [sparse.rows, offsetOf(starts), offsetOf(columns), offsetOf(values)];
  };

  const register = (tensor: Tensor2D): Matrix => {
    const matrix = { rows: tensor.shape[0], columns: tensor.shape[1] };
    matrices.set(matrix, tensor);
    return matrix;
  };

  /** The product of a and b by a kernel, as a matrix of that shape. `inner` is the length of the sums. */
  const multiply = (kernel: Kernel, a: Matrix, b: Matrix, rows: number, inner: number): Matrix => {
    if (inner !== b.rows) throw new Error(`Sums of ${inner} numbers over a matrix of ${b.rows} rows.`);
    const product = tensor2d(new Float32Array(rows * b.columns), [rows, b.columns], "float32");
    withScratch(inner * PANEL_COLUMNS, (panel) =>
      withFloats(a, (floats) => kernel(rows, inner, b.columns, ...[floats, tensorOf(b), product, panel].map(offsetOf))),
    );
    return register(product);
  };

  const choleskyMemory: CholeskyMemory = {
    kernels,
    allocate(length) {
      const tensor = backend.makeOutput([2 * length], "float32");
      return {
        offset: () => offsetOf(tensor),
        view: () => new Float64Array(heapValues(tensor).buffer, offsetOf(tensor), length),
        free: () => backend.disposeData(tensor.dataId),
      };
    },
  };

  return {
    name: "wasm",
    matrix: (rows, columns, values) => register(tensor2d(values, [rows, columns], "float32")),
    multiply: (a, b) => multiply(kernels.multiply, a, b, a.rows, a.columns),
    multiplyTransposed: (a, b) => multiply(kernels.multiplyTransposed, a, b, a.columns, a.rows),
    transpose(a) {
      const values = new Float32Array(a.rows * a.columns);
      transposeTiles(backend.typedArrayFromHeap(tensorOf(a)) as Float32Array, values, a.rows, a.columns);
      return register(tensor2d(values, [a.columns, a.rows], "float32"));
    },
    *invert(a, damping) {
      const size = Math.sqrt(a.length);
      return register(tensor2d(yield* invertMatrix(choleskyMemory, a, damping), [size, size], "float32"));
    },
    *rowBasis(a, minSquaredPivot) {
      const { rows, inverse } = yield* findRowBasis(choleskyMemory, a, minSquaredPivot);
      return { rows, inverse: register(tensor2d(inverse, [rows.length, rows.length], "float32")) };
    },
    quantise(a) {
      // The backend has no 8-bit integers, so four codes share a number.
      const codes = tensor1d(new Int32Array(Math.ceil((a.rows * a.columns) / 4)), "int32");
      const scales = tensor1d(new Float32Array(a.rows));
      kernels.quantiseRows(a.rows, a.columns, ...[tensorOf(a), codes, scales].map(offsetOf));
      const matrix = { rows: a.rows, columns: a.columns };
      quantisedMatrices.set(matrix, { codes, scales });
      return matrix;
    },
    sparseMatrix(rows, columns) {
      checkSparseRows(rows, columns);
      const { starts, values } = rows;
      // The backend has no 16-bit integers, so two columns share a number.
      const packed = new Int32Array(Math.ceil(values.length / 2));
      new Uint16Array(packed.buffer).set(rows.columns);
      const sparse = { rows: starts.length - 1, columns, entries: values.length };
      sparseMatrices.set(sparse, {
        starts: tensor1d(new Int32Array(starts), "int32"),
        columns: tensor1d(packed, "int32"),
        values: tensor1d(values, "float32"),
      });
      return sparse;
    },
    addSparseProduct(a, b, accumulator) {
      checkShapes([a.rows, a.columns], b, accumulator);
      kernels.addSparseProduct(
        ...sparseOffsets(a),
        offsetOf(tensorOf(b)),
        b.rows,
        b.columns,
        offsetOf(tensorOf(accumulator)),
      );
    },
    addTransposedProduct(a, b, accumulator) {
      checkShapes([a.columns, a.rows], b, accumulator);
      kernels.addTransposedProduct(
        ...sparseOffsets(a),
        offsetOf(tensorOf(b)),
        b.columns,
        offsetOf(tensorOf(accumulator)),
      );
    },
    readSparse(a) {
      const { starts, columns, values } = sparseOf(a);
      return {
        starts: new Uint32Array(starts.dataSync<"int32">().buffer),
        columns: new Uint16Array(columns.dataSync<"int32">().buffer, 0, a.entries),
        values: values.dataSync<"float32">(),
      };
    },
    read,
    values: (a) => (quantisedMatrices.has(a) ? read(a) : heapValues(tensorOf(a))),
    view: (a) => heapValues(tensorOf(a)),
    free(a) {
      matrices.get(a)?.dispose();
      matrices.delete(a);
      for (const parts of [sparseMatrices, quantisedMatrices]) {
        for (const tensor of Object.values(parts.get(a) ?? {})) tensor.dispose();
        parts.delete(a);
      }
    },
    // Each sparse matrix has three tensors, each quantised one two, and counts once.
    memory: () => ({
      matrices: memory().numTensors - 2 * sparseMatrices.size - quantisedMatrices.size,
      bytes: emscripten.HEAPU8.byteLength,
    }),
  };
}

/**
 * Writes the transpose of `source` (rows × columns) to `destination`, in tiles that fit the cache: ten times as fast as
 * tfjs's kernel.
 */
function transposeTiles(source: Float32Array, destination: Float32Array, rows: number, columns: number): void {
  const tile = 16;
  for (let top = 0; top < rows; top += tile) {
    const bottom = Math.min(rows, top + tile);
    for (let left = 0; left < columns; left += tile) {
      const right = Math.min(columns, left + tile);
      for (let column = left; column < right; column++) {
        for (let row = top; row < bottom; row++)
          destination[column * rows + row] = source[row * columns + column] as number;
      }
    }
  }
}
