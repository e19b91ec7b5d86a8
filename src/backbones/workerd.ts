import config from "../../models/text-static-1/config.json" with { type: "json" };
import table from "../../models/text-static-1/table.bin";
import vocabulary from "../../models/text-static-1/vocabulary.txt";
import { staticBackbone } from "./text-static.ts";

/** text-static-1 in workerd, where its files are modules of the Worker. */
export const textStatic = staticBackbone(config, vocabulary, new Uint8Array(table));
