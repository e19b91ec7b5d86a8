/**
 * What a user writes on a client that openapi-typescript has generated: test/e2e/client.test.ts makes its types beside
 * a copy of this file, compiles both, and runs it. It prints what it was answered.
 */
import createClient from "openapi-fetch";
import type { components, paths } from "./api.mts";

const [baseUrl = "", operatorKey = ""] = process.argv.slice(2);
const authorise = (key: string) => ({ baseUrl, headers: { authorization: `Bearer ${key}` } });

const operator = createClient<paths>(authorise(operatorKey));
const created = await operator.POST("/v1/admin/tenants", { body: { id: "generated" } });
if (created.error) throw new Error(created.error.error.message);
const graft = createClient<paths>(authorise(created.data.key.secret ?? ""));

await graft.POST("/v1/datasets", { body: { name: "colours", task: "single_label", modality: "text" } });
const things = ["door", "car", "house", "shirt", "lamp", "bag"];
const examples: components["schemas"]["LabelledExample"][] = ["red", "green"].flatMap((label) =>
  things.map((thing) => ({ text: `a ${label} ${thing}`, label })),
);
const imported = await graft.POST("/v1/datasets/{name}/examples", {
  params: { path: { name: "colours" } },
  body: { examples },
});
// Fields with a default may be left out.
const trained = await graft.POST("/v1/heads", { body: { name: "colour", dataset: "colours", evaluation: {} } });
const predicted = await graft.POST("/v1/heads/{name}/predict", {
  params: { path: { name: "colour" } },
  body: { input: "a red door" },
});
const listed = await graft.GET("/v1/datasets");
const embedded = await graft.POST("/v1/embeddings", { body: { model: "text-static-1", input: ["a"] } });
const refused = await graft.GET("/v1/heads/{name}", { params: { path: { name: "none" } } });
const code: components["schemas"]["Error"]["error"]["code"] | undefined = refused.error?.error.code;

console.log(
  JSON.stringify({
    added: imported.data?.added,
    version: trained.data && "version" in trained.data ? trained.data.version : null,
    label: predicted.data?.data[0]?.label,
    datasets: listed.data?.data.map(({ name }) => name),
    embeddings: embedded.data?.data.length,
    code,
  }),
);
