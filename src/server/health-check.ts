/** Ends with exit code 0 if the server of this environment (src/serve.ts) answers, and with 1 if not: for containers. */
import { env, exit } from "node:process";

const { PORT = "8787", TLS_CERT } = env;
// The certificate is of the server's name, not of this address.
env.NODE_TLS_REJECT_UNAUTHORIZED = "0";
const answer = await fetch(`${TLS_CERT ? "https" : "http"}://127.0.0.1:${PORT}/health/live`).catch(() => null);
exit(answer?.ok ? 0 : 1);
