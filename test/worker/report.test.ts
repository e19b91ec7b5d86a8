import { SELF } from "cloudflare:test";
import { beforeAll, expect, test } from "vitest";
import type { Head } from "../../src/api/heads.ts";
import type { Recommendation } from "../../src/api/recommendations.ts";
import { reportPage } from "../../src/http/pages/report/page.ts";
import { createClient } from "../../src/sdk/client.ts";
import { call, newTenant, tickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";
import { makeRecommendation } from "./recommendation.ts";

const REPORT = "/v1/heads/support/versions/1/report";
const MARKUP = `</script><img src=x onerror="alert(1)">'"&`;
const RTL = "\u202eفاتورة <b>خاطئة</b>";

let key: string;
let head: Head;

/** All texts have the markup, so that it tells no label from another. */
const withMarkup = (text: string) => `${text} ${MARKUP}`;
/** Tickets of other labels, which a head therefore confuses. */
const mislabelled = ["refund my last invoice", "reset my password", "where is my parcel", "the payment failed"].map(
  (text, i) => ({ id: `wrong-${i}`, text: withMarkup(`${text} now`).padEnd(600, "."), label: i < 2 ? MARKUP : RTL }),
);

beforeAll(async () => {
  key = (await newTenant()).key;
  await call("POST", "/v1/datasets", key, { name: "tickets", task: "single_label", modality: "text" });
  const others = tickets().map(({ text, label }) => ({ text: withMarkup(text), label }));
  await call("POST", "/v1/datasets/tickets/examples", key, { examples: [...others, ...mislabelled] });
  const trained = await call("POST", "/v1/heads", key, {
    name: "support",
    dataset: "tickets",
    hyperparameters: { l2: 1, lexical: false },
    evaluation: { detail: "full" },
  });
  expect(trained.status, trained.text).toBe(201);
  head = trained.json;
});

/** What a browser would take for markup of the tenant's. */
const foreignMarkup = /<\/?script|<img|<b>|onerror="/i;

test("is one page that runs nothing and loads nothing", async () => {
  const { status, headers, text } = await call("GET", REPORT, key);
  expect(status).toBe(200);
  expect(headers.get("content-type")).toBe("text/html; charset=UTF-8");
  expect(headers.get("content-security-policy")).toBe(
    "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'",
  );
  expect([headers.get("cache-control"), headers.get("x-content-type-options")]).toEqual(["no-store", "nosniff"]);
  expect(text).toMatch(/^<!doctype html>\n<html lang="en">/);
  expect(text).not.toMatch(/<[^>]*\s(src|href)="(?!#)|url\(|@import/);
  const headings = [...text.matchAll(/<h2 id="(\w+)">/g)].map(([, id]) => id);
  expect(headings).toEqual(["training", "figures", "confusion", "labels", "reliability", "learning", "scope"]);
  expect([...text.matchAll(/<li><a href="#(\w+)">/g)].map(([, id]) => id)).toEqual(headings);
});

test("tells the figures in words", async () => {
  const { text } = await call("GET", REPORT, key);
  const percent = (share = 0, digits = 1) => `${(100 * share).toFixed(digits)} %`;
  const { accuracy, automation = [], ece = 0 } = head.evaluation ?? {};
  expect(text).toContain("22 examples of the dataset tickets, revision 1");
  expect(text).toContain(`${percent(accuracy)} of the inputs get the right label`);
  expect(text).toContain(`Its scores are ${(100 * ece).toFixed(1)} points away`);
  for (const { accuracy: asked, threshold, share } of automation)
    expect(text).toContain(
      threshold === null
        ? `No score is high enough to automate anything at ${percent(1 - asked, 0)} error`
        : `It can automate ${percent(share, 0)} at ${percent(1 - asked, 0)} error`,
    );
});

test("escapes whatever labels and texts hold", async () => {
  const { text } = await call("GET", REPORT, key);
  expect(text).not.toMatch(foreignMarkup);
  expect(text).toContain("<bdi>&lt;/script&gt;&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&#39;&quot;&amp;</bdi>");
  expect(text).toContain("خاطئة&lt;/b&gt;</bdi>");
  expect(text).toMatch(/<blockquote dir="auto">[^<]*&lt;\/script&gt;&lt;img/);
});

test("shows the texts of the most confused examples, unless it is to leave them out", async () => {
  const { confused = [] } = head.evaluation ?? {};
  const shown = mislabelled.filter(({ id }) => confused.some(({ examples }) => examples.includes(id)));
  expect(shown.length).toBeGreaterThan(0);
  for (const { examples, count } of confused) expect(examples).toHaveLength(Math.min(3, count));
  const page = await call("GET", REPORT, key);
  const without = await call("GET", `${REPORT}?texts=false`, key);
  expect(without.text).toContain("The examples' texts are left out.");
  expect(without.text).not.toContain("<blockquote");
  for (const { text } of shown) {
    const begin = text.slice(0, text.indexOf(" <"));
    expect(page.text).toContain(`>${begin}`);
    const cut = text.slice(text.indexOf("&"), 500);
    expect(page.text).toContain(`${cut.replace("&", "&amp;")}…</blockquote>`);
    expect(without.text).not.toContain(begin);
  }
  const client = createClient({ baseUrl: "http://graft.test", key, fetch: (...request) => SELF.fetch(...request) });
  expect(await client.heads.report("support", 1)).toBe(page.text);
  expect(await client.heads.report("support", 1, { texts: false })).toBe(without.text);
});

test("shows the most likely issues of its dataset once they are found, with their texts as they are now", async () => {
  expect((await call("GET", REPORT, key)).text).not.toContain('id="issues"');
  const conflicting = { id: "conflict", text: withMarkup(`${tickets()[0]?.text} `).padEnd(600, "."), label: RTL };
  const examples = [conflicting, { ...conflicting, id: "other", label: MARKUP }];
  await call("POST", "/v1/datasets/tickets/examples", key, { examples });
  const found = await call("GET", "/v1/datasets/tickets/issues?head=support&type=conflict", key);
  const [issue] = found.json.data;
  expect(issue.reason).toContain(MARKUP);
  const { text } = await call("GET", REPORT, key);
  const part = /<h2 id="issues">.*?<\/section>/s.exec(text)?.[0] ?? "";
  expect(part).toContain(issue.example.text.slice(0, 10));
  expect(part).not.toMatch(foreignMarkup);
  expect(part).not.toContain(issue.example.text.slice(0, 600));
  const without = (await call("GET", `${REPORT}?texts=false`, key)).text;
  expect(/<h2 id="issues">.*?<\/section>/s.exec(without)?.[0]).not.toContain("<blockquote");
});

test("shows no text of an example that was deleted since, nor of a deleted dataset", async () => {
  const { confused = [] } = head.evaluation ?? {};
  const [id = ""] = confused.flatMap(({ examples }) => examples.filter((example) => example.startsWith("wrong-")));
  const text = mislabelled.find((example) => example.id === id)?.text ?? "";
  const begin = text.slice(0, text.indexOf(" <"));
  expect((await call("GET", REPORT, key)).text).toContain(`>${begin}`);
  expect((await call("DELETE", `/v1/datasets/tickets/examples/${id}`, key)).status).toBe(200);
  const afterExample = await call("GET", REPORT, key);
  expect(afterExample.text).not.toContain(`>${begin}`);
  expect(afterExample.text.match(/>deleted</g)).toHaveLength(1);
  expect(afterExample.text).toContain("<blockquote");
  expect((await call("DELETE", "/v1/datasets/tickets", key)).status).toBe(200);
  const afterDataset = await call("GET", REPORT, key);
  expect(afterDataset.text).not.toContain("<blockquote");
  expect(afterDataset.text).toContain(">deleted<");
});

test("is refused with a wrong query, path or key, and hidden from other tenants", async () => {
  expectError(await call("GET", `${REPORT}?texts=no`, key), 400, "invalid_parameter", "texts");
  expectError(await call("GET", `${REPORT}?text=false`, key), 400, "unknown_parameter", "text");
  expectError(await call("GET", "/v1/heads/support/versions/0/report", key), 400, "invalid_parameter", "version");
  expectError(await call("GET", "/v1/heads/support/versions/2/report", key), 404, "not_found");
  expectError(await call("GET", "/v1/heads/none/versions/1/report", key), 404, "not_found");
  await expectAuthorization(key, "train", "GET", REPORT);
  await expectHidden("GET", REPORT, undefined, () => call("DELETE", "/v1/heads/support", key));
});

test("of examples that came with the request says that their texts are not stored", async () => {
  const { key: ownKey } = await newTenant();
  const examples = ["a", "b", "c", "d", "e", "f"].map((letter, i) => ({
    text: `${letter} word`,
    label: i % 2 ? "x" : "y",
  }));
  await call("POST", "/v1/heads", ownKey, { name: "support", examples, hyperparameters: { l2: 1, lexical: false } });
  const { text } = await call("GET", REPORT, ownKey);
  expect(text).toContain("6 examples sent with the training or in files");
  expect(text).toContain("so that their texts are not stored");
  expect(text).toContain('Train with <code>"evaluation": {"detail": "full"}</code>');
});

const render = (
  changes: Partial<Head>,
  evaluation: Partial<NonNullable<Head["evaluation"]>> | null = {},
  recommendation: Recommendation | null = null,
) =>
  String(
    reportPage({
      head: {
        ...head,
        ...changes,
        evaluation: evaluation === null || head.evaluation === null ? null : { ...head.evaluation, ...evaluation },
      },
      texts: new Map(),
      recommendation,
      issues: [],
    }),
  );

test("of a version of an older build says what is missing", () => {
  const older = {
    reliability: undefined,
    confused: undefined,
    learning_curve: undefined,
    accuracy_estimate: undefined,
  };
  const text = render({}, { ...older, automation: undefined, train_accuracy: undefined, detail: "summary" });
  expect(text).toContain("before they were kept. Train it again");
  expect(text).toContain("before the figures of a reliability diagram were kept");
  expect(text).toContain("There is no learning curve.");
  expect(text).not.toMatch(/undefined|NaN|automate/);
  expect(render({}, null)).toContain("There are no figures. It was trained without an evaluation.");
  const reason = "No label has two examples with different inputs, so none can be held out.";
  expect(render({}, { method: "none", examples: 0, reason })).toContain(`There are no figures. ${reason}`);
});

test("shows what was recommended for the dataset, with the figures of both methods", () => {
  const { reasons, ...made } = makeRecommendation("rec_1", { name: "tickets", revision: 3, examples: 60 });
  const recommendation = {
    object: "recommendation" as const,
    ...made,
    recommendation: "fine_tune" as const,
    runner_up: "head" as const,
    reasons: reasons.map((reason) => ({ ...reason, message: MARKUP })),
    created_at: 0,
  };
  const text = render({}, {}, recommendation);
  expect(text).toContain('<h2 id="method">');
  expect(text).toContain(
    "These data need fine-tuning, with a confidence of 50 %; next comes a head on the frozen backbone.",
  );
  expect(text).toContain("1,000 numbers, 10.0 % of the model");
  expect(text).not.toMatch(foreignMarkup);
  expect(text).not.toMatch(/undefined|NaN/);
  expect(
    render({}, {}, { ...recommendation, recommendation: null, expected: { head: null, fine_tune: null } }),
  ).toContain("could not tell which method they need");
  expect(text).toContain("as expected with one, two and five times the examples");
  const point = { examples: 30, head_accuracy: 0.55, fine_tuned_accuracy: 0.65, test_examples: 40 };
  const points = [{ ...point, expected_gain: 0.1, chance_of_loss: 0.2, seconds: 1 }];
  const measured = render({}, {}, { ...recommendation, measured: { job_seconds: 1, points } });
  expect(measured).toContain("as measured on samples of the examples");
  expect(measured).toMatch(/<th scope="row">30<\/th><td>55\.0 %<\/td><td>[^<]*<\/td><td>65\.0 %<\/td>/);
  expect(measured).not.toContain('<th scope="row">300</th>');
  expect(render({})).not.toContain('id="method"');
});

test("of values has no parts that are of labels alone", () => {
  const values = { r2: 0.71, mae: 1.25, rmse: 2000, r2_interval: [0.6, 0.8] as [number, number] };
  const text = render({ task: "regression", labels: [] }, { ...values, accuracy: undefined, per_class: undefined });
  expect([...text.matchAll(/<h2 id="(\w+)">/g)].map(([, id]) => id)).toEqual(["training", "figures"]);
  expect(text).toContain("Predictions are off by 1.25 on average.");
  expect(text).toContain("It explains 71.0 % of the variance");
});

test("of a thousand labels, long and of every kind, stays a page that can be read", () => {
  const labels = Array.from({ length: 1_000 }, (_, i) => `${i} ${i % 2 ? RTL : MARKUP}`.padEnd(250, "\u5b57"));
  const perClass = labels.map((label, i) => ({ label, precision: 0.5, recall: i / 1_000, f1: i / 1_000, support: 3 }));
  const text = render({ labels }, { per_class: perClass, confusion: undefined });
  expect(text).toContain("The confusion matrix is kept of at most 300 labels; this head has 1000.");
  expect(text).toContain("<summary>975 more labels</summary>");
  expect(text).not.toMatch(foreignMarkup);
  expect(text.length).toBeLessThan(600_000);
  const some = labels.slice(0, 300);
  const matrix = some.map((_, row) => some.map((_, column) => (row === column ? 9 : row === 7 ? 1 : 0)));
  const withMatrix = render(
    { labels: some },
    { per_class: perClass.slice(0, 300), confusion: { labels: some, matrix } },
  );
  expect(withMatrix).toContain("Of 300 labels, it shows the 30 with the most mistakes.");
  expect(withMatrix.match(/<td class="right"/g)).toHaveLength(30);
  expect(withMatrix).not.toMatch(foreignMarkup);
});
