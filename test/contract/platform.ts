import type { Backbone } from "../../src/backbones/backbone.ts";
import type { Tensors } from "../../src/core/tensors.ts";

const workerd = navigator.userAgent === "Cloudflare-Workers";

/** What this runtime's loader in `folder` exports. Each is typed, and can be loaded, in its own runtime alone. */
async function load(folder: string, inWorkerd: string, inNode: string): Promise<unknown> {
  const loader = `../../src/${folder}/${workerd ? "workerd" : "node"}.ts`;
  const module = (await import(loader)) as Record<string, unknown>;
  const found = module[workerd ? inWorkerd : inNode];
  if (found === undefined) throw new Error(`${loader} does not export what it should.`);
  return found;
}

/** The WASM backend in whichever runtime the tests run. */
export async function wasmForTests(): Promise<Tensors> {
  return ((await load("tensor", "workerdTensors", "nodeTensors")) as () => Promise<Tensors>)();
}

/** text-static-1 in whichever runtime the tests run. */
export async function textStaticForTests(): Promise<Backbone> {
  return (await load("backbones", "textStatic", "textStatic")) as Backbone;
}
