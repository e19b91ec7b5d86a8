// OpenAI's own client against Graft: models, embeddings, files and a fine-tuning job.
//
//   GRAFT_KEY=gk_… node examples/openai-client/openai-client.mjs
import { createReadStream } from "node:fs";
import { setTimeout } from "node:timers/promises";
import OpenAI from "openai";

const { GRAFT_URL = "http://127.0.0.1:8787", GRAFT_KEY } = process.env;
const openai = new OpenAI({ baseURL: `${GRAFT_URL}/v1`, apiKey: GRAFT_KEY });

const models = await openai.models.list();
console.log("models:", models.data.map(({ id }) => id).join(", "));

const { data } = await openai.embeddings.create({
  model: "text-static-1",
  input: ["where is my parcel", "reset my password"],
});
console.log(`embeddings: ${data.length} of ${data[0].embedding.length} dimensions`);

// Chats as OpenAI fine-tunes on them: the user's message is the text, the assistant's is the label.
const chats = createReadStream(new URL("chats.jsonl", import.meta.url));
const file = await openai.files.create({ file: chats, purpose: "fine-tune" });
console.log(`file: ${file.filename}, ${file.bytes} bytes`);

// `head` is Graft's own: the head that gets the result. Without it a job makes a model, and nothing that serves changes.
const params = { model: "text-static-1", training_file: file.id, suffix: "router", head: "router" };
let job = await openai.fineTuning.jobs.create(params);
while (!["succeeded", "failed", "cancelled"].includes(job.status)) {
  await setTimeout(500);
  job = await openai.fineTuning.jobs.retrieve(job.id);
}
console.log(`job: ${job.status}, model ${job.fine_tuned_model}`);
if (job.status !== "succeeded") throw new Error(job.error?.message);
const events = await openai.fineTuning.jobs.listEvents(job.id, { limit: 1 });
console.log(`last event: ${events.data[0].message}`);

// The job has made a head. Predicting is not part of OpenAI's API, but its client can send any request.
const prediction = await openai.post(`/heads/${job.graft.head}/predict`, { body: { input: "where is my parcel" } });
console.log(`prediction: ${prediction.data[0].label}`);

await openai.files.delete(file.id);
const left = await openai.files.list();
console.log("file deleted:", !left.data.some(({ id }) => id === file.id));
