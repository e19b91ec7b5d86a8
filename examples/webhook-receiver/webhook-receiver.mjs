// Receives webhooks, verifies their signatures (Standard Webhooks) and prints each event once.
//
//   WEBHOOK_SECRET=whsec_… PORT=9000 node examples/webhook-receiver/webhook-receiver.mjs
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const { WEBHOOK_SECRET, PORT = "9000" } = process.env;
const webhook = new Webhook(WEBHOOK_SECRET);
// A receiver that stores anything keeps these ids in a table, written in the same transaction.
const seen = new Set();

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  let event;
  try {
    // The signature covers the bytes as they came: verify them before parsing.
    event = webhook.verify(Buffer.concat(chunks).toString(), request.headers);
  } catch {
    return response.writeHead(400).end("not signed by Graft");
  }
  // An event may arrive more than once, always under the same id.
  if (!seen.has(event.id)) console.log(event.sequence, event.type, JSON.stringify(event.data));
  seen.add(event.id);
  response.writeHead(204).end();
}).listen(Number(PORT), "127.0.0.1", () => console.log("ready"));
