/** A report as a real browser shows it: headless Chromium, and axe-core's rules of accessibility. */
import { createReadStream, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import axe, { type AxeResults } from "axe-core";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { createClient } from "../../src/sdk/client.ts";
import { type Server, serve } from "../../src/server/runtime.ts";

const root = join(import.meta.dirname, "..", "..");
const folder = mkdtempSync(join(tmpdir(), "graft-report-"));
const adminKey = "operator-of-the-report-test";
/** playwright-core brings no browser. */
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";

const MARKUP = `</script><script>alert(1)</script><img src="/x" onerror="alert(2)"><b onclick='alert(3)'>"&`;
/** Tickets under labels that a page must not take for markup, that run from right to left, and that fit on no line. */
const hostile = [
  { text: `refund my last invoice ${MARKUP}`, label: MARKUP },
  { text: `refund my last invoice again ${MARKUP}`, label: MARKUP },
  { text: `the app crashes ${MARKUP}`, label: "\u202eفاتورة" },
  { text: "the app crashes again", label: "\u202eفاتورة" },
  { text: `cancel my plan ${"x".repeat(3_000)}`, label: "very_long_".repeat(25) },
  { text: "cancel my plan at once", label: "very_long_".repeat(25) },
];

let server: Server;
let browser: Browser;
let key: string;
let url: string;

beforeAll(async () => {
  if (!existsSync(executablePath))
    throw new Error(
      `There is no Chromium at ${executablePath}. Install it ('apt-get install chromium' on Debian), or set CHROMIUM to its path.`,
    );
  [server, browser] = await Promise.all([
    serve(inject("bundles").deployed, { port: 0, stateDir: folder, adminKey, log: () => undefined }),
    chromium.launch({ executablePath }),
  ]);
  const operator = createClient({ baseUrl: server.url, key: adminKey });
  key = (await operator.tenants.create({ id: "report-test" })).key.secret;
  const graft = createClient({ baseUrl: server.url, key });
  await graft.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
  await graft.datasets.import("tickets", createReadStream(join(root, "examples", "support-tickets.csv")), "text/csv");
  await graft.datasets.add("tickets", hostile);
  await graft.heads.train({
    name: "support",
    dataset: "tickets",
    backbone: "text-static-1",
    hyperparameters: { lexical: false },
    evaluation: { detail: "full" },
    method: "head",
  });
  await graft.recommendations.create({ dataset: "tickets", backbone: "text-static-1" });
  url = `${server.url}/v1/heads/support/versions/1/report`;
});

afterAll(async () => {
  await browser?.close();
  await server?.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** Opens a page. Unless it is to be as it was served, scripts of the test may run in it. */
async function withPage(options: BrowserContextOptions, use: (page: Page) => Promise<void>): Promise<void> {
  const context = await browser.newContext({ extraHTTPHeaders: { authorization: `Bearer ${key}` }, ...options });
  try {
    await use(await context.newPage());
  } finally {
    await context.close();
  }
}

const inspected = { bypassCSP: true };

test("runs nothing and asks for nothing, as it is served", async () => {
  await withPage({}, async (page) => {
    const seen: string[] = [];
    page.on("request", (request) => seen.push(request.url()));
    page.on("dialog", (dialog) => seen.push(dialog.message()));
    page.on("console", (message) => seen.push(message.text()));
    const response = await page.goto(url);
    expect(response?.headers()["content-security-policy"]).toContain("sandbox");
    expect(seen).toEqual([url]);
  });
});

test("has no element of the tenant's making, also where scripts may run", async () => {
  await withPage(inspected, async (page) => {
    const seen: string[] = [];
    page.on("request", (request) => seen.push(request.url()));
    page.on("dialog", (dialog) => seen.push(dialog.message()));
    await page.goto(url);
    expect(
      await page.evaluate("document.querySelectorAll('script, img, b, iframe, [onclick], [onerror]').length"),
    ).toBe(0);
    expect(await page.locator("h2").count()).toBe(8);
    expect(await page.locator(".matrix bdi", { hasText: MARKUP }).count()).toBe(2);
    expect(await page.locator("svg").count()).toBe(3);
    expect(seen).toEqual([url]);
  });
});

test("breaks no rule of axe-core, light or dark, on a desk or a telephone, nor is wider than the screen", async () => {
  await withPage(inspected, async (page) => {
    await page.goto(url);
    await page.evaluate(axe.source);
    for (const [colorScheme, width] of [
      ["light", 1_280],
      ["dark", 360],
    ] as const) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 900 });
      const { violations, passes } = await page.evaluate<AxeResults>("axe.run()");
      expect(violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)])).toEqual([]);
      expect(passes.map(({ id }) => id)).toEqual(
        expect.arrayContaining(["color-contrast", "svg-img-alt", "document-title"]),
      );
      expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(width);
    }
  });
});

test("is read by keyboard, and on paper", async () => {
  await withPage({ ...inspected, viewport: { width: 360, height: 900 } }, async (page) => {
    await page.goto(url);
    const focused: string[] = [];
    for (let i = 0; i < 30 && focused.at(-1) !== "Confusion matrix"; i++) {
      await page.keyboard.press("Tab");
      focused.push(await page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent"));
    }
    expect(focused.slice(0, 7)).toEqual([
      "Training",
      "Figures",
      "Confusion",
      "Labels",
      "Reliability",
      "Learning curve",
      "Scope",
    ]);
    expect(focused.at(-1)).toBe("Confusion matrix");
    await page.keyboard.press("ArrowRight");
    await expect.poll(() => page.evaluate("document.activeElement.scrollLeft")).toBeGreaterThan(0);
    await page.emulateMedia({ media: "print" });
    expect(await page.locator("nav").isVisible()).toBe(false);
    expect((await page.pdf({ format: "A4" })).subarray(0, 5).toString()).toBe("%PDF-");
  });
});
