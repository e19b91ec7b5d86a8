import { readFileSync } from "node:fs";
import { join } from "node:path";
import config from "../../models/text-static-1/config.json" with { type: "json" };
import { staticBackbone } from "./text-static.ts";

const model = join(import.meta.dirname, "../../models/text-static-1");
const vocabulary = readFileSync(join(model, "vocabulary.txt"), "utf8");

/** text-static-1 in Node, from its files. */
export const textStatic = staticBackbone(config, vocabulary, readFileSync(join(model, "table.bin")));
