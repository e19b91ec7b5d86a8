/** KV as production has it and the local one has not: lagging, refusing, slow, and holding what nobody wrote. */

export type Operation = "get" | "put" | "list" | "delete";

export interface FaultyKv {
  readonly kv: KVNamespace;
  readonly operations: Record<Operation, number>;
}

/**
 * `real`, with `before` run ahead of each operation (it may throw or wait) and `change` applied to each value read. A
 * bulk read counts as one operation, and asks for each of its keys.
 */
export function wrapKv(
  real: KVNamespace,
  beforeOperation: (operation: Operation, key: string) => Promise<void> | void = () => undefined,
  changeValue: (key: string, value: Uint8Array | null) => Promise<Uint8Array | null> | Uint8Array | null = (_, value) =>
    value,
): FaultyKv {
  const operations = { get: 0, put: 0, list: 0, delete: 0 };
  const read = async (key: string) => {
    const value = await real.get(key, "arrayBuffer");
    return changeValue(key, value && new Uint8Array(value));
  };
  const kv = {
    async get(keys: string | string[], type: "text" | "arrayBuffer") {
      operations.get++;
      for (const key of [keys].flat()) await beforeOperation("get", key);
      const decode = (value: Uint8Array | null) =>
        value && (type === "text" ? new TextDecoder().decode(value) : value.slice().buffer);
      if (typeof keys === "string") return decode(await read(keys));
      return new Map(await Promise.all(keys.map(async (key) => [key, decode(await read(key))] as const)));
    },
    async put(key: string, value: ArrayBuffer, options: KVNamespacePutOptions) {
      operations.put++;
      await beforeOperation("put", key);
      return real.put(key, value, options);
    },
    async list(options: KVNamespaceListOptions) {
      operations.list++;
      await beforeOperation("list", options.prefix ?? "");
      return real.list(options);
    },
    async delete(key: string) {
      operations.delete++;
      await beforeOperation("delete", key);
      return real.delete(key);
    },
  };
  return { kv: kv as unknown as KVNamespace, operations };
}

function throwKvError(operation: Operation, reason: string): never {
  throw new Error(`KV ${operation.toUpperCase()} failed: ${reason}`);
}

/** Fails every one of these operations. */
export function failingKv(real: KVNamespace, ...operations: readonly Operation[]): FaultyKv {
  return wrapKv(real, (operation) => {
    if (operations.includes(operation)) throwKvError(operation, "500 Internal Server Error");
  });
}

/** Takes its time over each operation, then gives up. */
export function timingOutKv(real: KVNamespace, milliseconds: number): FaultyKv {
  return wrapKv(real, async (operation) => {
    await scheduler.wait(milliseconds);
    throwKvError(operation, "timed out");
  });
}

/** Refuses a second write to the same key within a second, as production does. */
export function rateLimitedKv(real: KVNamespace, now: () => number): FaultyKv {
  const writeTimes = new Map<string, number>();
  return wrapKv(real, (operation, key) => {
    if (operation !== "put" && operation !== "delete") return;
    const last = writeTimes.get(key);
    if (last !== undefined && now() - last < 1000) throwKvError(operation, "429 Too Many Requests");
    writeTimes.set(key, now());
  });
}

/** Answers what a key held when it was first asked for, values and misses alike, until 60 s later. */
export function staleKv(real: KVNamespace, now: () => number): FaultyKv {
  const firstReads = new Map<string, { value: Uint8Array | null; expiresAt: number }>();
  return wrapKv(real, undefined, (key, value) => {
    const firstRead = firstReads.get(key);
    if (firstRead && firstRead.expiresAt > now()) return firstRead.value;
    firstReads.set(key, { value, expiresAt: now() + 60_000 });
    return value;
  });
}

/** Answers other bytes than those that were written, wherever anything was. */
export function corruptedKv(real: KVNamespace, corrupt: (value: Uint8Array) => Uint8Array): FaultyKv {
  return wrapKv(real, undefined, (_, value) => value && corrupt(value));
}

/** The ways in which a value can be wrong. */
export const corruptions: Readonly<Record<string, (value: Uint8Array) => Uint8Array>> = {
  empty: () => new Uint8Array(),
  "other bytes": (value) => value.map((_, i) => (i * 37 + 11) % 256),
  "cut short": (value) => value.subarray(0, value.length - 3),
  "one bit changed": (value) => value.map((byte, i) => (i === value.length - 2 ? byte ^ 1 : byte)),
  text: () => new TextEncoder().encode("<html>502 Bad Gateway</html>"),
};
