// Receives webhooks: WEBHOOK_SECRET=whsec_… PORT=9000 node examples/webhook-receiver.mjs (after `npm install standardwebhooks`)
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.WEBHOOK_SECRET);
const seen = new Set(); // better: a table, written in the transaction of what the event leads to

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  let event;
  try {
    event = webhook.verify(Buffer.concat(chunks).toString(), request.headers);
  } catch {
    return response.writeHead(400).end("not signed by Graft");
  }
  if (!seen.has(event.id)) console.log(event.sequence, event.type, JSON.stringify(event.data));
  seen.add(event.id);
  response.writeHead(204).end();
}).listen(Number(process.env.PORT ?? 9000), "127.0.0.1", () => console.log("ready"));
