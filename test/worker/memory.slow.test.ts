/** What an isolate gives back of its memory. */
import { expect, test } from "vitest";
import weights from "../../models/text-use-1/weights.bin";
import { textUse } from "../../src/backbones/workerd.ts";
import { ok } from "../../src/core/failure.ts";
import { IDLE_BYTES, workerdTensorBackend } from "../../src/tensor/workerd.ts";
import { withRunState } from "../../src/training/run.ts";
import { requester } from "./requester.ts";

/** Rows of a hundred numbers, together more than a backend has at its start. */
const ROWS = 100_000;
const COLUMNS = 100;

/** Sums the columns of large rows in the backend, while `work` runs. */
function sumRows(work: () => Promise<unknown> = async () => undefined) {
  return withRunState(requester, async ({ tensors }) => {
    const rows = tensors.matrix(ROWS, COLUMNS, new Float32Array(ROWS * COLUMNS).fill(1));
    const ones = tensors.matrix(COLUMNS, 1, new Float32Array(COLUMNS).fill(1));
    await work();
    const sums = tensors.multiply(rows, ones);
    const values = tensors.read(sums);
    for (const matrix of [rows, ones, sums]) tensors.free(matrix);
    return ok({ bytes: tensors.memory().bytes, correct: values.every((value) => value === COLUMNS) });
  });
}

test("the memory of a training is given back, and the next training has a backend", async () => {
  for (let i = 0; i < 2; i++) {
    const { bytes, correct } = expectOk(await sumRows());
    expect(correct).toBe(true);
    expect(bytes).toBeGreaterThan(4 * ROWS * COLUMNS);
    expect((await workerdTensorBackend()).memory()).toMatchObject({ matrices: 0 });
    expect((await workerdTensorBackend()).memory().bytes).toBeLessThan(IDLE_BYTES);
  }
});

test("a training that ends leaves the memory of another alone", async () => {
  const result = await sumRows(async () => {
    expect(expectOk(await sumRows()).correct).toBe(true);
  });
  expect(expectOk(result).correct).toBe(true);
  expect((await workerdTensorBackend()).memory().bytes).toBeLessThan(IDLE_BYTES);
});

test("the encoder's weights are held once, and it embeds again", async () => {
  const first = await textUse.embed(["where is my parcel"]);
  expect(weights.byteLength).toBe(0);
  expect(await textUse.embed(["where is my parcel"])).toEqual(first);
});

function expectOk<T>(result: { readonly ok: boolean; readonly value?: T }): T {
  return result.value ?? expect.fail();
}
