import type { Tensors } from "../../src/core/tensors.ts";

/** The WASM backend in whichever runtime the tests run. Each loader is typed, and can be loaded, in its own runtime alone. */
export async function wasmForTests(): Promise<Tensors> {
  const workerd = navigator.userAgent === "Cloudflare-Workers";
  const loader = workerd ? "../../src/tensor/workerd.ts" : "../../src/tensor/node.ts";
  const module = (await import(loader)) as Record<string, () => Promise<Tensors>>;
  const start = module[workerd ? "workerdTensors" : "nodeTensors"];
  if (start === undefined) throw new Error(`${loader} does not export what it should.`);
  return start();
}
