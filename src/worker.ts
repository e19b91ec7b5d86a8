import { createApp } from "./http/app.ts";

export { BatchContainer } from "./jobs/container.ts";
export { Directory } from "./tenant/directory.ts";
export { Tenant } from "./tenant/tenant.ts";

export default createApp() satisfies ExportedHandler<Cloudflare.Env>;
