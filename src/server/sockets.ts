/** The Unix sockets between this process and the runtime: on ports, other users of the machine could reach them. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** The longest path of a Unix socket, in bytes, on every system: sun_path has 104 on macOS, with a zero at its end. */
const MAX_SOCKET_PATH = 103;

export interface Sockets {
  /** The path of the one to the Worker. */
  readonly inbound: string;
  /** The path of the one from the Worker to the network. */
  readonly outbound: string;
  readonly remove: () => void;
}

/** Sockets in the state folder, or in a temporary folder if their paths would be too long. */
export function makeSockets(stateDir: string): Sockets {
  const inFolder = (folder: string) => ({
    inbound: join(folder, "runtime.sock"),
    outbound: join(folder, "outbound.sock"),
  });
  const { inbound, outbound } = inFolder(stateDir);
  if (Buffer.byteLength(outbound) <= MAX_SOCKET_PATH) {
    const remove = () => {
      for (const path of [inbound, outbound]) rmSync(path, { force: true });
    };
    return { inbound, outbound, remove };
  }
  const folder = mkdtempSync(join(tmpdir(), "graft-socket-"));
  return { ...inFolder(folder), remove: () => rmSync(folder, { recursive: true, force: true }) };
}
