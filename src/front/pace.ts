/** Ends requests whose client sends or reads too slowly: each holds a connection, and perhaps memory in the Worker. */
import type { IncomingMessage, ServerResponse } from "node:http";

export interface PaceLimits {
  /** How long a client may keep the front waiting, all pauses of a request together … */
  readonly graceMs: number;
  /** … and the bytes a second that it must send or read beyond that. */
  readonly bytesPerSecond: number;
}

interface Transfer {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly bytesBefore: number;
  readonly onTimeout: () => void;
  waitedMs: number;
}

/** Calls `onTimeout` of a request whose client has been too slow. The clock runs only while the front waits for it. */
export class Pace {
  readonly #limits: PaceLimits;
  readonly #transfers = new Set<Transfer>();
  readonly #timer: NodeJS.Timeout;

  constructor(limits: PaceLimits) {
    this.#limits = limits;
    const tickMs = Math.min(1_000, limits.graceMs / 2);
    this.#timer = setInterval(() => this.#check(tickMs), tickMs).unref();
  }

  watch(request: IncomingMessage, response: ServerResponse, onTimeout: () => void): void {
    const { bytesRead, bytesWritten } = request.socket;
    const transfer = { request, response, onTimeout, bytesBefore: bytesRead + bytesWritten, waitedMs: 0 };
    this.#transfers.add(transfer);
    response.once("close", () => this.#transfers.delete(transfer));
  }

  #check(tickMs: number): void {
    for (const transfer of this.#transfers) {
      const { request, response, bytesBefore, onTimeout } = transfer;
      const isClientAwaited = (!request.complete && !request.isPaused()) || response.writableNeedDrain;
      if (!isClientAwaited) continue;
      transfer.waitedMs += tickMs;
      const bytes = request.socket.bytesRead + request.socket.bytesWritten - bytesBefore;
      if (transfer.waitedMs <= this.#limits.graceMs + (bytes / this.#limits.bytesPerSecond) * 1_000) continue;
      this.#transfers.delete(transfer);
      onTimeout();
    }
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
