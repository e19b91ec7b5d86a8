/**
 * Builds what a deployment uploads, containers apart, and fails if it is too large, in storage or in memory: `npm run
 * bundle`. The platform takes a Worker of 64 MiB, uncompressed
 * (https://developers.cloudflare.com/workers/platform/limits/#worker-size).
 */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";

const MAX_MIB = 48;
const folder = join(import.meta.dirname, "../dist/production");

rmSync(folder, { recursive: true, force: true });
const wrangler = join(import.meta.dirname, "../node_modules/wrangler/bin/wrangler.js");
const options = ["deploy", "--dry-run", "--env", "production", "--containers-rollout=none", "--outdir", folder];
execFileSync(process.execPath, [wrangler, ...options], { stdio: "inherit" });
// V8 would hold all of the source in two bytes a character.
if (/[^\0-\xff]/.test(readFileSync(join(folder, "worker.js"), "utf8"))) {
  console.error("The Worker's source has a character beyond Latin-1. Write it as \\u and its number.");
  process.exitCode = 1;
}
// Source maps are not a part of the Worker.
const files = readdirSync(folder).filter((file) => !file.endsWith(".map"));
const mib = files.reduce((sum, file) => sum + statSync(join(folder, file)).size, 0) / 2 ** 20;
console.log(`The Worker has ${mib.toFixed(1)} MiB; ${MAX_MIB} are allowed.`);
if (mib > MAX_MIB) process.exitCode = 1;
