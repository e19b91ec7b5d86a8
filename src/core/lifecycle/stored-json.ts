/**
 * The JSON of a state that the ledger stores. Stored keys never change; `storedKeys` maps those names that are
 * different in memory. The order of the keys and keys of a newer version are kept.
 */
export function storedJson<T extends object>(
  storedKeys: Partial<Record<keyof T & string, string>>,
): { readonly encode: (state: T) => string; readonly decode: (json: string) => T } {
  const toStored = new Map<string, string>(Object.entries(storedKeys));
  const fromStored = new Map(Array.from(toStored, ([key, stored]) => [stored, key]));
  return {
    encode: (state) => JSON.stringify(renameKeys(state, toStored)),
    decode: (json) => renameKeys(JSON.parse(json), fromStored) as T,
  };
}

function renameKeys(object: object, names: ReadonlyMap<string, string>): object {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [names.get(key) ?? key, value]));
}
