import { expect, test } from "vitest";
import { call, tenantWithTickets } from "./api.ts";

test("a head is trained on a data set and classifies", async () => {
  const { key } = await tenantWithTickets();
  const trained = await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets" });
  expect(trained.status, trained.text).toBe(201);
  const answer = await call("POST", "/v1/heads/support/predict", key, {
    input: ["I want a refund of the charge", "cannot log in"],
  });
  expect(answer.status, answer.text).toBe(200);
  expect(answer.json.model).toBe("support@1");
  expect(answer.json.data.map((d: { label: string }) => d.label)).toEqual(["billing", "login"]);
});
