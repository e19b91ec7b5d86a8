/**
 * The client of bench/predict.ts, in a thread of its own: one request at a time on each of several open connections, with
 * as little work as Node allows, so that the server is the bottleneck.
 */
import { connect, type Socket } from "node:net";
import { parentPort, Worker, workerData } from "node:worker_threads";
import { quantile } from "./statistics.ts";

export interface LoadOptions {
  readonly port: number;
  /** Whole HTTP requests, sent in turn. */
  readonly requests: readonly Uint8Array[];
  readonly concurrency: number;
  readonly milliseconds: number;
}

export interface LoadResult {
  readonly requests: number;
  readonly p50: number;
  readonly p99: number;
}

/** Whether a response is complete. Throws if its status is not 200. */
function isComplete(response: string): boolean {
  const end = response.indexOf("\r\n\r\n");
  if (end < 0) return false;
  if (!response.startsWith("HTTP/1.1 200")) throw new Error(`Unexpected response: ${response}`);
  const length = /\r\ncontent-length: (\d+)/i.exec(response)?.[1];
  return length === undefined ? response.endsWith("\r\n0\r\n\r\n") : response.length === end + 4 + Number(length);
}

/** Sends requests one after the other on a connection until `deadline`, and adds the milliseconds of each. */
function sendRequests(
  socket: Socket,
  requests: readonly Uint8Array[],
  first: number,
  deadline: number,
  latencies: number[],
): Promise<void> {
  return new Promise((resolve, reject) => {
    let next = first;
    let sentAt = 0;
    let response = "";
    const send = () => {
      response = "";
      sentAt = performance.now();
      socket.write(requests[next++ % requests.length] as Uint8Array);
    };
    const stop = (error?: Error) => {
      socket.off("data", onData).off("error", stop).off("close", onClose);
      if (error) reject(error);
      else resolve();
    };
    const onClose = () => stop(new Error("The server closed the connection."));
    const onData = (chunk: Buffer) => {
      response += chunk.toString("latin1");
      try {
        if (!isComplete(response)) return;
      } catch (error) {
        return stop(error as Error);
      }
      const now = performance.now();
      latencies.push(now - sentAt);
      if (now >= deadline) stop();
      else send();
    };
    socket.on("data", onData).on("error", stop).on("close", onClose);
    send();
  });
}

async function runRound({ port, requests, concurrency, milliseconds }: LoadOptions): Promise<LoadResult> {
  const sockets = await Promise.all(
    Array.from({ length: concurrency }, async () => {
      const socket = connect({ port, host: "127.0.0.1", noDelay: true });
      await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
      return socket;
    }),
  );
  const latencies: number[] = [];
  const started = performance.now();
  try {
    const deadline = started + milliseconds;
    await Promise.all(sockets.map((socket, i) => sendRequests(socket, requests, i * 31, deadline, latencies)));
  } finally {
    for (const socket of sockets) socket.destroy();
  }
  const seconds = (performance.now() - started) / 1000;
  return { requests: latencies.length / seconds, p50: quantile(latencies, 0.5), p99: quantile(latencies, 0.99) };
}

/** Requests a second, and latencies in milliseconds, of a server under load. */
export function generateLoad(workerData: LoadOptions): Promise<LoadResult> {
  const thread = new Worker(import.meta.filename, { workerData });
  return new Promise((resolve, reject) => thread.once("message", resolve).once("error", reject));
}

if (parentPort) parentPort.postMessage(await runRound(workerData as LoadOptions));
