/** The peer of bench/predict.ts: a bare Hono route that returns the JSON of the request. */
import { Hono } from "hono";

// wrangler.toml binds these classes, and the peer starts with the Worker's configuration.
export class Tenant {}
export class Directory {}

export default new Hono().post("/echo", async (c) => c.json(await c.req.json()));
