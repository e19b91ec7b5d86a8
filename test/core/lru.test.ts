import { describe, expect, it } from "vitest";
import { LruCache } from "../../src/lib/lru.ts";

const keys = ["a", "b", "c", "d"];
const valuesIn = (cache: LruCache<string>) => keys.flatMap((key) => cache.get(key) ?? []);

describe("an LRU cache", () => {
  it("drops the values used least recently, as many as it takes to stay within its bytes", () => {
    const cache = new LruCache<string>(10);
    for (const key of ["a", "b", "c"]) cache.set(key, key, 3);
    expect(cache.get("a")).toBe("a");
    cache.set("d", "d", 4);
    expect(valuesIn(cache)).toEqual(["a", "c", "d"]);
    cache.set("b", "b", 7);
    expect(valuesIn(cache)).toEqual(["b"]);
  });

  it("holds exactly its bytes, and no value that is larger", () => {
    const cache = new LruCache<string>(10);
    cache.set("a", "a", 4);
    cache.set("b", "b", 6);
    expect(valuesIn(cache)).toEqual(["a", "b"]);
    cache.set("c", "c", 11);
    expect(valuesIn(cache)).toEqual(["a", "b"]);
    // The old value is not served in the place of one that has no room.
    cache.set("a", "new", 11);
    expect(valuesIn(cache)).toEqual(["b"]);
  });

  it("counts a value once that is set again, and none that was deleted", () => {
    const cache = new LruCache<string>(10);
    for (const value of ["old", "new"]) cache.set("a", value, 5);
    cache.set("b", "b", 5);
    expect(valuesIn(cache)).toEqual(["new", "b"]);
    cache.delete("a");
    cache.delete("a");
    cache.set("c", "c", 5);
    expect(valuesIn(cache)).toEqual(["b", "c"]);
    cache.deleteWhere((value) => value === "b");
    cache.set("d", "d", 5);
    expect(valuesIn(cache)).toEqual(["c", "d"]);
  });
});
