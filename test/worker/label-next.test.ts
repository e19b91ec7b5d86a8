/** What to label next: the inputs of a pool that are chosen, for every task, and what is refused. */
import { beforeAll, describe, expect, test } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { call, newTenant, tickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";

let key: string;
const path = (head: string) => `/v1/heads/${head}/label_next`;
const choose = (inputs: readonly unknown[], body: object = {}, head = "support") =>
  call("POST", path(head), key, { inputs, ...body });

async function train(name: string, examples: readonly unknown[], owner: string) {
  const body = { name, examples, backbone: "text-static-1", evaluation: { method: "none" } };
  const { backbone: _backbone, ...withoutBackbone } = body;
  const isText = examples.every((example) => typeof (example as { text?: string }).text === "string");
  const trained = await call("POST", "/v1/heads", owner, isText ? body : withoutBackbone);
  expect(trained.status, trained.text).toBe(201);
}

beforeAll(async () => {
  ({ key } = await newTenant());
  await train("support", tickets(), key);
});

describe("label_next", () => {
  test("answers what is uncertain before what is known, once each, with reasons, and the same again", async () => {
    const known = tickets().map(({ text }) => text);
    const unsure = ["refund for a parcel that never came", "charged twice while I could not log in"];
    const pool = [...known.slice(0, 6), ...unsure, " Refund for a PARCEL that never came", { text: unsure[1] }];
    const answer = await choose(pool, { count: 3 });
    expect(answer.status, answer.text).toBe(200);
    expect(answer.json).toMatchObject({ object: "list", model: "support@1" });
    const { data } = answer.json;
    expect(data).toHaveLength(3);
    for (const { index, input, score, reason } of data) {
      expect(input).toEqual(pool[index]);
      expect(score).toBeGreaterThan(0);
      expect(reason).toMatch(/^The head .+\.$/);
    }
    expect(data.map(({ index }: { index: number }) => index).filter((index: number) => index > 7)).toEqual([]);
    expect(data.slice(0, 2).some(({ index }: { index: number }) => index >= 6)).toBe(true);
    expect((await choose(pool, { count: 3 })).json).toEqual(answer.json);
  });

  test("answers all different inputs where there are fewer, 20 by default", async () => {
    expect((await choose(["a", "A ", "b"])).json.data).toHaveLength(2);
    const many = Array.from({ length: 40 }, (_, i) => `ticket number ${i}`);
    expect((await choose(many)).json.data).toHaveLength(20);
  });

  test("takes heads of any number of labels and embeddings, and refuses values", async () => {
    const labelled = tickets().map(({ text, label }) => ({ text, labels: label === "login" ? [] : [label] }));
    await train("topics", labelled, key);
    const multi = await choose(["refund for a parcel", "log in"], { count: 1 }, "topics");
    expect(multi.json.data[0].reason).toContain("which it predicts from");
    const vectors = [0, 1, 2, 3].map((i) => ({ embedding: [i % 2, 1 - (i % 2), i / 10], label: i % 2 ? "a" : "b" }));
    await train("vectors", vectors, key);
    const inputs = [{ embedding: [1, 0, 0] }, { embedding: [0.5, 0.5, 0] }, { embedding: [0, 1, 0] }];
    const embedded = await choose(inputs, { count: 1 }, "vectors");
    expect(embedded.json.data).toMatchObject([{ index: 1, input: inputs[1] }]);
    await train(
      "price",
      [1, 2, 3, 4].map((value) => ({ text: `costs ${value}`, value })),
      key,
    );
    expectError(await choose(["a"], {}, "price"), 422, "task_mismatch");
  });

  test("refuses what a prediction refuses, and says where", async () => {
    expectError(await choose([]), 400, "invalid_parameter", "inputs");
    expectError(await choose(["a", " "]), 422, "input_empty", "inputs[1]");
    expectError(await choose(["a", { embedding: [1] }]), 422, "modality_mismatch", "inputs[1]");
    expectError(await choose(["a"], { count: 0 }), 400, "invalid_parameter", "count");
    expectError(await choose(["a"], { count: limits.inputs_to_label + 1 }), 422, "limit_exceeded", "count");
    const tooMany = Array.from({ length: limits.inputs_per_request + 1 }, () => "a");
    expectError(await choose(tooMany), 422, "limit_exceeded", "inputs");
    const long = Array.from({ length: 70 }, (_, i) => `${i} ${"word ".repeat(6_000)}`);
    expectError(await choose(long), 422, "limit_exceeded", "inputs");
    expectError(await choose(["a"], { other: 1 }), 400, "unknown_parameter", "other");
    expectError(await choose(["a"], {}, "absent"), 404, "not_found");
  });

  test("takes the scope train, and another tenant's key finds nothing", async () => {
    const owner = await newTenant();
    await train("own", tickets(), owner.key);
    const body = { inputs: ["a"] };
    await expectAuthorization(owner.key, "train", "POST", path("own"), body);
    await expectHidden("POST", path("own"), body, () => call("DELETE", "/v1/heads/own", owner.key));
  });
});
