/**
 * The client of bench/predict.ts, in a thread of its own: requests over connections that stay open, each with one at a
 * time, as light as Node allows, so that it is the server that is measured.
 */
import { connect, type Socket } from "node:net";
import { parentPort, Worker, workerData } from "node:worker_threads";
import { quantile } from "./local-worker.ts";

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

/** Whether a whole answer has come. Throws where its status is not 200. */
function isComplete(answer: string): boolean {
  const end = answer.indexOf("\r\n\r\n");
  if (end < 0) return false;
  if (!answer.startsWith("HTTP/1.1 200")) throw new Error(`Not the answer that was measured for: ${answer}`);
  const length = /\r\ncontent-length: (\d+)/i.exec(answer)?.[1];
  return length === undefined ? answer.endsWith("\r\n0\r\n\r\n") : answer.length === end + 4 + Number(length);
}

/** Sends requests one after the other on one connection until `until`, and adds each one's milliseconds. */
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
    let answer = "";
    const send = () => {
      answer = "";
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
      answer += chunk.toString("latin1");
      try {
        if (!isComplete(answer)) return;
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

/** Puts a load on a server and tells how many requests a second it answered, and how fast, in milliseconds. */
export function generateLoad(workerData: LoadOptions): Promise<LoadResult> {
  const thread = new Worker(import.meta.filename, { workerData });
  return new Promise((resolve, reject) => thread.once("message", resolve).once("error", reject));
}

if (parentPort) parentPort.postMessage(await runRound(workerData as LoadOptions));
