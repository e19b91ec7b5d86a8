import { isIPv6 } from "node:net";
import { watchFreeSpace } from "../front/free-space.ts";
import { workerRoutes } from "../front/routes.ts";
import { type Front, type FrontOptions, startFront } from "../front/server.ts";
import { UsageError } from "../lib/usage-error.ts";
import type { ServeOptions } from "./options.ts";

const MIN_FREE_BYTES = 64 * 2 ** 20;
const LOOPBACK = "127.0.0.1";
/** Addresses that stand for every address of this machine. */
const WILDCARDS = ["0.0.0.0", "::"];

export interface Fronts {
  readonly url: string;
  readonly batchUrl: string;
  readonly close: () => Promise<void>;
}

/** Starts the front that clients reach and, if that speaks TLS, one for the batch endpoint on this machine. */
export async function startFronts(socketPath: string, options: ServeOptions): Promise<Fronts> {
  const { host = LOOPBACK, port, tls, trustedProxies = 0, minFreeBytes = MIN_FREE_BYTES, extraRoutes = [] } = options;
  const space = await watchFreeSpace(options.stateDir, minFreeBytes);
  const shared = { socketPath, trustedProxies, isStorageFull: space.isLow };
  const fronts: Front[] = [];
  const start = async (frontOptions: FrontOptions) => {
    const front = await startFront(frontOptions);
    fronts.push(front);
    return front;
  };
  const close = async () => {
    space.stop();
    await Promise.all(fronts.map((front) => front.close()));
  };
  try {
    const front = await start({ ...shared, host, port, tls, routes: [...workerRoutes, ...extraRoutes] });
    const localHost = WILDCARDS.includes(host) ? LOOPBACK : host;
    const address = `${isIPv6(localHost) ? `[${localHost}]` : localHost}:${front.port}`;
    if (tls === undefined) return { url: `http://${address}`, batchUrl: `http://${address}`, close };
    const batchFront = await start({
      ...shared,
      trustedProxies: 0,
      host: LOOPBACK,
      port: 0,
      routes: ["/internal/batch"],
    });
    return { url: `https://${address}`, batchUrl: `http://${LOOPBACK}:${batchFront.port}`, close };
  } catch (error) {
    await close();
    throw new UsageError(`Nothing can listen on port ${port} of ${host}: ${(error as Error).message}.`);
  }
}
