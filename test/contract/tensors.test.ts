/** What both tensor backends promise, in Node and in workerd. */
import { describe, expect, it } from "vitest";
import type { Matrix, Tensors } from "../../src/core/tensors.ts";
import { plainTensors } from "../../src/tensor/plain.ts";
import { wasmForTests } from "./platform.ts";

const backends: Tensors[] = [plainTensors(), await wasmForTests()];

describe.each(backends)("$name tensors", (tensors) => {
  const rows = (...values: number[][]): Matrix =>
    tensors.matrix(values.length, values[0]?.length ?? 0, Float32Array.from(values.flat()));

  it("multiplies", () => {
    const a = rows([1, 2, 3], [4, 5, 6]);
    const b = rows([1, 0], [0, 1], [2, -1]);
    const product = tensors.multiply(a, b);
    expect([product.rows, product.columns]).toEqual([2, 2]);
    expect([...tensors.read(product)]).toEqual([7, -1, 16, -1]);
    for (const matrix of [a, b, product]) tensors.free(matrix);
  });

  it.each([
    [1, 1, 1],
    [3, 1, 5],
    [7, 13, 9],
    [65, 129, 33],
    [1, 300, 2],
    [300, 2, 1],
  ])("multiplies %i × %i by … × %i as the definition does", (n, m, k) => {
    const wave = (length: number, step: number) => Float32Array.from({ length }, (_, i) => Math.sin(step * (i + 1)));
    const left = wave(n * m, 0.7);
    const right = wave(m * k, 1.3);
    const a = tensors.matrix(n, m, left);
    const b = tensors.matrix(m, k, right);
    const product = tensors.multiply(a, b);
    tensors.view(product).forEach((value, at) => {
      let sum = 0;
      for (let j = 0; j < m; j++)
        sum += (left[Math.floor(at / k) * m + j] as number) * (right[j * k + (at % k)] as number);
      expect(Math.abs(value - sum)).toBeLessThan(1e-5 * m);
    });
    for (const matrix of [a, b, product]) tensors.free(matrix);
  });

  it("transposes, vectors too", () => {
    const a = rows([1, 2, 3], [4, 5, 6]);
    const transposed = tensors.transpose(a);
    expect([transposed.rows, transposed.columns, ...tensors.read(transposed)]).toEqual([3, 2, 1, 4, 2, 5, 3, 6]);
    const column = rows([1], [2]);
    const row = tensors.transpose(column);
    tensors.view(row)[0] = 9;
    expect([...tensors.read(row)]).toEqual([9, 2]);
    expect([...tensors.read(column)]).toEqual([1, 2]);
    for (const matrix of [a, transposed, column, row]) tensors.free(matrix);
  });

  it("copies what goes in and what comes out, and lets a view be written to", () => {
    const source = Float32Array.of(1, 2);
    const a = tensors.matrix(1, 2, source);
    source[0] = 5;
    const out = tensors.read(a);
    out[1] = 7;
    expect([...tensors.read(a)]).toEqual([1, 2]);
    tensors.view(a)[0] = 3;
    const identity = rows([1, 0], [0, 1]);
    const product = tensors.multiply(a, identity);
    expect([...tensors.read(product)]).toEqual([3, 2]);
    for (const matrix of [a, identity, product]) tensors.free(matrix);
  });

  it("uses what was written to a view before its matrix was first on the right", () => {
    const identity = rows([1, 0], [0, 1]);
    const product = tensors.multiply(identity, identity);
    tensors.view(product).set([1, 2, 3, 4]);
    const squared = tensors.multiply(product, product);
    expect([...tensors.read(squared)]).toEqual([7, 10, 15, 22]);
    for (const matrix of [identity, product, squared]) tensors.free(matrix);
  });

  it("refuses shapes that do not fit, and matrices that are gone", () => {
    const before = tensors.memory().matrices;
    const a = rows([1, 2]);
    expect(() => tensors.multiply(a, a)).toThrow();
    expect(() => tensors.matrix(2, 2, Float32Array.of(1))).toThrow();
    expect(tensors.memory().matrices).toBe(before + 1);
    tensors.free(a);
    expect(() => tensors.read(a)).toThrow();
    expect(() => tensors.view(a)).toThrow();
    tensors.free(a);
    expect(() => tensors.multiply(a, a)).toThrow();
    expect(tensors.memory().matrices).toBe(before);
  });
});

it("starts the WASM backend once, and leaves the process's handlers of uncaught errors alone", async () => {
  expect(await wasmForTests()).toBe(await wasmForTests());
  expect(String(process.listeners("uncaughtException"))).not.toContain("ExitStatus");
});
