import { DurableObject } from "cloudflare:workers";

export class Tenant extends DurableObject {}
export class Directory extends DurableObject {}

export default {
  fetch() {
    return new Response("ok");
  },
} satisfies ExportedHandler;
