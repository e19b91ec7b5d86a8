/** Serves a bundle in a process of its own, which the crash tests kill. Waits for a line on standard input first. */
import { once } from "node:events";
import { serve } from "../../src/server/runtime.ts";

const [bundle = "", stateDir = "", port = "0", variables = "{}"] = process.argv.slice(2);
// Without the tests at its other end, this process ends as well.
process.stdin.once("end", () => process.exit(1));
await once(process.stdin, "data");
const log = (line: string) => console.log(line);
const options = {
  port: Number(port),
  stateDir,
  adminKey: "operator-key-of-the-tests",
  variables: JSON.parse(variables),
  log,
  extraRoutes: ["/alarm", "/crash", "/overdue", "/stored", "/sweep"],
};
const { url } = await serve(bundle, options);
console.log(`listening on ${url}`);
