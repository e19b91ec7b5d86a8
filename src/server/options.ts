import type { FrontOptions } from "../front/server.ts";
import type { Resolve } from "./outbound.ts";

export interface ServeOptions {
  /** 127.0.0.1 by default. */
  readonly host?: string;
  /** 0 for any free port. */
  readonly port: number;
  readonly tls?: FrontOptions["tls"];
  /** How many proxies stand in front of the server; 0 by default. */
  readonly trustedProxies?: number;
  /** With fewer free bytes on the disk, nothing is added to the state; 64 MiB by default. */
  readonly minFreeBytes?: number;
  readonly stateDir: string;
  readonly adminKey: string;
  /** The Worker's other variables, such as BACKBONES. */
  readonly variables?: Readonly<Record<string, string>>;
  /** What resolves the names of hosts that are not public by configuration; DNS by default. */
  readonly resolve?: Resolve;
  /** Called once if the runtime has not answered for a minute, and is not coming back. */
  readonly onLost?: () => void;
  /** Takes the Worker's log lines, instead of standard output. */
  readonly log?: (line: string) => void;
  /** Paths of a Worker that has more than the API's, for tests. */
  readonly extraRoutes?: readonly string[];
  /** Whether the runtime itself listens on 127.0.0.1, without the front: for benchmarks, and open to everyone there. */
  readonly exposeRuntime?: boolean;
  /** Whether V8's inspector listens on 127.0.0.1: for the measurement of memory, and open to everyone there. */
  readonly inspect?: boolean;
}
