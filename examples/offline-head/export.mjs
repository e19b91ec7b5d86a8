// Downloads what offline classification needs: the exported head, and the embeddings of texts.
//
//   GRAFT_KEY=gk_… node examples/offline-head/export.mjs HEAD FOLDER TEXT…
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

const { GRAFT_URL = "http://127.0.0.1:8787", GRAFT_KEY } = process.env;
const [name, folder, ...texts] = process.argv.slice(2);

const { version } = await send("GET", `/v1/heads/${name}`);
const head = await send("GET", `/v1/heads/${name}/versions/${version}/export?format=json`);
await mkdir(folder, { recursive: true });
await writeFile(join(folder, "head.json"), JSON.stringify(head));

const cache = await readCache(join(folder, "embeddings.json"), head.backbone);
const missing = texts.filter((text) => !Object.hasOwn(cache.embeddings, text));
// 256 texts a request stay below the limits of /v1/limits, whatever the backbone's dimensions.
for (let i = 0; i < missing.length; i += 256) {
  const input = missing.slice(i, i + 256);
  const { data } = await send("POST", "/v1/embeddings", { model: head.backbone.id, input });
  for (const { index, embedding } of data) cache.embeddings[input[index]] = embedding;
}
await writeFile(join(folder, "embeddings.json"), JSON.stringify(cache));
console.log(`${name}@${version}, ${missing.length} texts embedded, ${texts.length - missing.length} from the cache`);

/** The embeddings of earlier runs by text. Those of another backbone, or of another revision, are of no use to the head. */
async function readCache(file, backbone) {
  const cache = JSON.parse(await readFile(file, "utf8").catch(() => "{}"));
  const isCurrent = cache.backbone?.id === backbone.id && cache.backbone.revision === backbone.revision;
  return isCurrent ? cache : { backbone, embeddings: {} };
}

/** Sends a request and returns the JSON of the answer. Throws the API's message when the request is refused. */
async function send(method, path, body) {
  const headers = { authorization: `Bearer ${GRAFT_KEY}`, "content-type": "application/json" };
  const response = await fetch(`${GRAFT_URL}${path}`, { method, headers, body: body && JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${method} ${path}: ${answer.error.message}`);
  return answer;
}
