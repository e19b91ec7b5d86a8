import { BackendWasm } from "@tensorflow/tfjs-backend-wasm/dist/tf-backend-wasm.fesm.min.js";
import createModule, { type BackendWasmModule } from "@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm.js";
import {
  matMul,
  memory,
  registerBackend,
  removeBackend,
  setBackend,
  type Tensor2D,
  tensor2d,
} from "@tensorflow/tfjs-core";
import type { Matrix, Tensors } from "../core/tensors.ts";

/** What the package's types take from Emscripten's, which are not installed. */
type Emscripten = BackendWasmModule & {
  readonly HEAPU8: Uint8Array;
  cwrap(name: string, returns: "number" | null, takes: "number"[]): (...values: number[]) => number;
};

let ready: Promise<Tensors> | null = null;

/**
 * TensorFlow.js's WASM backend, for workerd and Node. `module` is the compiled
 * `@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm-simd.wasm`. There is one backend a process: every call
 * answers the first one's.
 */
export function wasmTensors(module: WebAssembly.Module): Promise<Tensors> {
  // A start that failed is tried again by the next call.
  ready ??= start(module).catch((error) => {
    ready = null;
    throw error;
  });
  return ready;
}

/** workerd may not compile WASM at run time, so the backend cannot load itself as it would in a browser. */
async function start(module: WebAssembly.Module): Promise<Tensors> {
  const emscripten = (await quietly(() =>
    createModule({
      instantiateWasm(imports: WebAssembly.Imports, done: (instance: WebAssembly.Instance) => void) {
        const instance = new WebAssembly.Instance(module, imports);
        done(instance);
        return instance.exports;
      },
    }),
  )) as Emscripten;
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
  return tensors(backend, emscripten);
}

/** Emscripten's Node set-up rethrows every uncaught error of the process; those handlers are taken off again. */
async function quietly<T>(run: () => Promise<T>): Promise<T> {
  const events = ["uncaughtException", "unhandledRejection"] as const;
  const before = events.map((event) => new Set(process.listeners(event as never)));
  const result = await run();
  events.forEach((event, i) => {
    for (const listener of process.listeners(event as never)) {
      if (!before[i]?.has(listener)) process.removeListener(event, listener);
    }
  });
  return result;
}

function tensors(backend: BackendWasm, emscripten: Emscripten): Tensors {
  const alive = new Map<Matrix, Tensor2D>();

  const tensorOf = (matrix: Matrix): Tensor2D => {
    const tensor = alive.get(matrix);
    if (tensor === undefined) throw new Error("This matrix has been freed or belongs to another backend.");
    return tensor;
  };

  const keep = (tensor: Tensor2D): Matrix => {
    const matrix = { rows: tensor.shape[0], columns: tensor.shape[1] };
    alive.set(matrix, tensor);
    return matrix;
  };

  return {
    name: "wasm",
    matrix: (rows, columns, values) => keep(tensor2d(values, [rows, columns], "float32")),
    multiply: (a, b) => keep(matMul(tensorOf(a), tensorOf(b))),
    transpose(a) {
      const values = new Float32Array(a.rows * a.columns);
      transposeTiles(backend.typedArrayFromHeap(tensorOf(a)) as Float32Array, values, a.rows, a.columns);
      return keep(tensor2d(values, [a.columns, a.rows], "float32"));
    },
    read: (a) => tensorOf(a).dataSync<"float32">(),
    view: (a) => backend.typedArrayFromHeap(tensorOf(a)) as Float32Array,
    free(a) {
      alive.get(a)?.dispose();
      alive.delete(a);
    },
    memory: () => ({ matrices: memory().numTensors, bytes: emscripten.HEAPU8.byteLength }),
  };
}

/** Writes `from` (rows × columns) transposed into `to`, by tiles that fit the cache: ten times as fast as tfjs's kernel. */
function transposeTiles(from: Float32Array, to: Float32Array, rows: number, columns: number): void {
  const tile = 16;
  for (let top = 0; top < rows; top += tile) {
    const bottom = Math.min(rows, top + tile);
    for (let left = 0; left < columns; left += tile) {
      const right = Math.min(columns, left + tile);
      for (let column = left; column < right; column++) {
        for (let row = top; row < bottom; row++) to[column * rows + row] = from[row * columns + column] as number;
      }
    }
  }
}
