// A help desk's integration: one inbound hook classifies new tickets, another learns from the tags that agents set.
//
//   GRAFT_KEY=gk_… node examples/help-desk/help-desk.mjs
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { Webhook } from "standardwebhooks";

const { GRAFT_URL = "http://127.0.0.1:8787", GRAFT_KEY } = process.env;

const classifyHook = await createHook("classify.hook.json");
const learnHook = await createHook("learn.hook.json");

// A customer has written. The answer is the prediction, which the help desk shows to the agent.
const created = await read("ticket-created.json");
const prediction = await post(classifyHook, created);
console.log(
  `ticket ${prediction.input_id}: ${prediction.label}, score ${prediction.score.toFixed(2)} (${prediction.model})`,
);

// An agent has confirmed or corrected the tag. The ticket becomes an example of the dataset.
const tagged = await read("ticket-tagged.json");
const learning = await post(learnHook, tagged);
console.log(`ticket ${learning.example}: ${learning.outcome} (dataset ${learning.dataset})`);

// An integration keeps its hooks. These are deleted so that this program can run again and leave nothing behind.
for (const { id } of [classifyHook, learnHook])
  await send("DELETE", `${GRAFT_URL}/v1/inbound_hooks/${id}`, keyHeaders());

/** Makes an inbound hook of a file. Its `url` and `secret` are shown only in this answer: a real integration stores them. */
async function createHook(file) {
  return send("POST", `${GRAFT_URL}/v1/inbound_hooks`, keyHeaders(), await read(file));
}

/** Posts the help desk's own JSON to a hook. The signature takes the place of an API key. */
async function post(hook, body) {
  // A message that is sent again keeps its id: it then takes effect once.
  const id = `msg_${randomUUID()}`;
  const time = new Date();
  return send(
    "POST",
    hook.url,
    {
      "webhook-id": id,
      "webhook-timestamp": String(Math.floor(time.getTime() / 1000)),
      "webhook-signature": new Webhook(hook.secret).sign(id, time, body),
    },
    body,
  );
}

function keyHeaders() {
  return { authorization: `Bearer ${GRAFT_KEY}` };
}

/** Sends a request and returns the JSON of the answer. Throws the API's message when the request is refused. */
async function send(method, url, headers, body) {
  const response = await fetch(url, { method, headers: { "content-type": "application/json", ...headers }, body });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${method} ${url}: ${answer.error.message}`);
  return answer;
}

function read(file) {
  return readFile(new URL(file, import.meta.url), "utf8");
}
