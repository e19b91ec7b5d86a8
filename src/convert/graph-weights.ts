/** The weights of a TensorFlow.js graph model, by the names of its constants. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

interface GraphModel {
  readonly weightsManifest: readonly {
    readonly paths: readonly string[];
    readonly weights: readonly { readonly name: string; readonly shape: readonly number[]; readonly dtype: string }[];
  }[];
}

/** Answers the 32-bit floats of the one constant whose name ends so. Throws if there is none, or several. */
export type WeightReader = (nameEnd: string) => Float32Array;

/** Reads the model.json of a folder and the shards it names. */
export function readGraphWeights(folder: string): WeightReader {
  const { weightsManifest } = JSON.parse(readFileSync(join(folder, "model.json"), "utf8")) as GraphModel;
  const weights = new Map<string, Float32Array>();
  for (const { paths, weights: constants } of weightsManifest) {
    const bytes = new Uint8Array(Buffer.concat(paths.map((path) => readFileSync(join(folder, path)))));
    let offset = 0;
    for (const { name, shape, dtype } of constants) {
      const length = shape.reduce((product, size) => product * size, 1);
      if (dtype === "float32") weights.set(name, new Float32Array(bytes.buffer, offset, length));
      // The other type that graph models of encoders have is int32.
      offset += 4 * length;
    }
  }
  return (nameEnd) => {
    const names = [...weights.keys()].filter((name) => name.endsWith(nameEnd));
    const values = weights.get(names[0] ?? "");
    if (names.length !== 1 || values === undefined)
      throw new Error(`${names.length} constants of the model end in ${nameEnd}, not one.`);
    return values;
  };
}
