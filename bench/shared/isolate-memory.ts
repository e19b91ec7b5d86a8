/** The memory of an isolate of workerd, by V8's inspector. Megabytes have 10^6 bytes. */

import { setTimeout } from "node:timers/promises";

/** What `Runtime.getHeapUsage` of the Chrome DevTools Protocol answers, in bytes. */
interface HeapUsage {
  readonly usedSize: number;
  readonly embedderHeapUsedSize: number;
  /** Of array buffers, without those of WASM memories. */
  readonly backingStorageSize: number;
}

interface Message {
  readonly id: number;
  readonly result: unknown;
  readonly method?: string;
  readonly params: { readonly context: { readonly id: number } };
}

interface RemoteObject {
  readonly objectId: string;
  readonly value: unknown;
}

/** What is alive after a garbage collection, in megabytes. */
export interface MemoryUse {
  readonly heap: number;
  readonly buffers: number;
  readonly wasm: number;
  readonly total: number;
}

export interface IsolateMemory {
  measure(): Promise<MemoryUse>;
  close(): void;
}

/** Connects to the inspector of the Worker's isolate. `url` is that of the runtime's inspector. */
export async function connectToIsolate(url: string): Promise<IsolateMemory> {
  const socket = new WebSocket(new URL("/core:user:", url).href);
  await new Promise((resolve, reject) => {
    socket.addEventListener("open", resolve);
    socket.addEventListener("error", reject);
  });
  let contextId = 0;
  const waiting = new Map<number, (result: unknown) => void>();
  socket.addEventListener("message", ({ data }) => {
    const { id, result, method, params } = JSON.parse(String(data)) as Message;
    if (method === "Runtime.executionContextCreated") contextId = params.context.id;
    waiting.get(id)?.(result);
    waiting.delete(id);
  });
  let calls = 0;
  const call = <T>(method: string, params = {}) =>
    new Promise<T>((resolve) => {
      waiting.set(++calls, resolve as (result: unknown) => void);
      socket.send(JSON.stringify({ id: calls, method, params }));
    });
  const collect = async () => {
    await call("HeapProfiler.collectGarbage");
    // The memory of array buffers is freed a little later.
    await setTimeout(5);
    await call("HeapProfiler.collectGarbage");
  };
  await call("HeapProfiler.enable");
  await call("Runtime.enable");
  const { result: prototype } = await call<{ result: RemoteObject }>("Runtime.evaluate", {
    expression: "WebAssembly.Memory.prototype",
    contextId,
  });
  const wasmBytes = async () => {
    const { objects } = await call<{ objects: RemoteObject }>("Runtime.queryObjects", {
      prototypeObjectId: prototype.objectId,
    });
    const { result } = await call<{ result: RemoteObject }>("Runtime.callFunctionOn", {
      objectId: objects.objectId,
      functionDeclaration: "function () { return this.reduce((sum, { buffer }) => sum + buffer.byteLength, 0); }",
    });
    await call("Runtime.releaseObject", { objectId: objects.objectId });
    return result.value as number;
  };
  return {
    async measure() {
      await collect();
      const { usedSize, embedderHeapUsedSize, backingStorageSize } = await call<HeapUsage>("Runtime.getHeapUsage");
      const [heap, buffers, wasm] = [usedSize + embedderHeapUsedSize, backingStorageSize, await wasmBytes()];
      return { heap: heap / 1e6, buffers: buffers / 1e6, wasm: wasm / 1e6, total: (heap + buffers + wasm) / 1e6 };
    },
    close: () => socket.close(),
  };
}
