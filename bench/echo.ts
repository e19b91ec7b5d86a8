/** The peer of bench/predict.ts: a bare Hono route that answers with the JSON it was sent. */
import { Hono } from "hono";

// wrangler.toml binds them, and the peer is started with the same configuration as the Worker.
export class Tenant {}
export class Directory {}

export default new Hono().post("/echo", async (c) => c.json(await c.req.json()));
