import type { Backbone } from "../../src/backbones/backbone.ts";
import type { TensorBackend } from "../../src/core/tensors.ts";

const isWorkerd = navigator.userAgent === "Cloudflare-Workers";

/** What this runtime's loader in `folder` exports. Each is typed, and can be loaded, in its own runtime alone. */
async function loadExport(folder: string, inWorkerd: string, inNode: string): Promise<unknown> {
  const loader = `../../src/${folder}/${isWorkerd ? "workerd" : "node"}.ts`;
  const module = (await import(loader)) as Record<string, unknown>;
  const exported = module[isWorkerd ? inWorkerd : inNode];
  if (exported === undefined) throw new Error(`${loader} does not export what it should.`);
  return exported;
}

/** The WASM backend in whichever runtime the tests run. */
export async function loadTensors(): Promise<TensorBackend> {
  return ((await loadExport("tensor", "workerdTensorBackend", "nodeTensorBackend")) as () => Promise<TensorBackend>)();
}

/** The bundled backbones in whichever runtime the tests run. */
export async function loadBundledBackbones(): Promise<readonly Backbone[]> {
  return (await loadExport("backbones", "bundledBackbones", "bundledBackbones")) as readonly Backbone[];
}

/** text-static-1 in whichever runtime the tests run. */
export async function loadTextStatic(): Promise<Backbone> {
  return (await loadExport("backbones", "textStatic", "textStatic")) as Backbone;
}
