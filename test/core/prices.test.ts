import { expect, it } from "vitest";
import { defaultPrices, OPERATIONS_PER_SECOND, parsePrices, trainingPrice } from "../../src/core/prices.ts";

it("prices a second at the edge by its CPU milliseconds, and at a batch endpoint by its vCPU", () => {
  expect(trainingPrice("edge", OPERATIONS_PER_SECOND, defaultPrices)).toBeCloseTo(0.02 / 1_000, 12);
  expect(trainingPrice("batch", 60 * OPERATIONS_PER_SECOND, defaultPrices)).toBeCloseTo(0.0012, 12);
  expect(trainingPrice("edge", 0, defaultPrices)).toBe(0);
});

it("takes the operator's prices in place of the defaults", () => {
  for (const none of [undefined, "", " "]) expect(parsePrices(none)).toEqual({ ok: true, value: defaultPrices });
  const own = parsePrices('{"batch_vcpu_second": 0}');
  expect(own).toEqual({ ok: true, value: { edge_million_cpu_ms: 0.02, batch_vcpu_second: 0 } });
});

it.each([
  ["{", "is not JSON"],
  ["[]", "is not a JSON object"],
  ["null", "is not a JSON object"],
  ['{"gpu": 1}', "has no 'gpu'"],
  ['{"batch_vcpu_second": -1}', "must have a number from 0 as 'batch_vcpu_second'"],
  ['{"edge_million_cpu_ms": "1"}', "must have a number from 0"],
])("refuses %s", (configuration, message) => {
  const result = parsePrices(configuration);
  expect(result.ok ? "" : result.failure.message).toContain(`PRICES ${message}`);
});
