/* Look at pages of the built site in headless Chromium, and print what was seen.

   Reads one JSON object from standard input:
     {"base": "http://127.0.0.1:…/", "chromium": "/usr/bin/chromium", "profile": dir,
      "pages": {"home": "", …}, "shots": dir or null}
   and prints one JSON array with an entry for each page, scheme and width. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const order = JSON.parse(readFileSync(0, "utf8"));
const require = createRequire(join(order.modules, "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const VIEWS = [
  { scheme: "light", width: 1280, height: 900 },
  { scheme: "dark", width: 1280, height: 900 },
  { scheme: "light", width: 375, height: 812 },
  { scheme: "dark", width: 375, height: 812 },
];
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const origin = new URL(order.base).origin;

const browser = await chromium.launchPersistentContext(order.profile, {
  executablePath: order.chromium,
  headless: true,
  args: FLAGS,
  permissions: ["clipboard-read", "clipboard-write"],
});

const seen = [];
for (const [kind, path] of Object.entries(order.pages)) {
  for (const view of VIEWS) {
    const page = await browser.newPage();
    await page.setViewportSize({ width: view.width, height: view.height });
    await page.emulateMedia({ colorScheme: view.scheme, reducedMotion: "reduce" });
    const found = { kind, path, ...view, outside: [], console: [], failed: [] };
    page.on("console", (m) => found.console.push(`${m.type()}: ${m.text()}`));
    page.on("pageerror", (e) => found.console.push(`error: ${e.message}`));
    page.on("requestfailed", (r) => found.failed.push(r.url()));
    page.on("response", (r) => r.status() >= 400 && found.failed.push(r.url()));
    await page.route("**/*", (route) => {
      const url = route.request().url();
      if (url.startsWith("data:") || new URL(url).origin === origin) return route.continue();
      found.outside.push(url);
      return route.abort();
    });
    await page.goto(new URL(path, order.base).href, { waitUntil: "networkidle" });

    found.overflow = await page.evaluate(
      () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
    );
    found.background = await page.evaluate(
      () => getComputedStyle(document.body).backgroundColor,
    );
    found.raw = await page.evaluate(() => {
      const walker = document.createTreeWalker(
        document.querySelector("article"), NodeFilter.SHOW_TEXT);
      const left = [];
      for (let node; (node = walker.nextNode());) {
        if (!node.parentElement.closest("code, pre") && node.data.includes("[[")) {
          left.push(node.data);
        }
      }
      return left;
    });
    found.links = await page.evaluate(
      () => [...document.querySelectorAll("article a[href]")].map((a) => a.href));

    await page.evaluate(axe);
    found.axe = await page.evaluate(async () => {
      const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
      const { violations, passes } = await axe.run(document, { runOnly: tags });
      return {
        rules: passes.length,
        found: violations.map((v) => ({
          rule: v.id,
          nodes: v.nodes.map((n) => `${n.target.join(" ")}: ${n.failureSummary}`),
        })),
      };
    });
    found.rules = found.axe.rules;
    found.axe = found.axe.found;

    const button = page.locator("[data-kit-copy]").first();
    if (view.scheme === "light" && view.width === 1280 && (await button.count())) {
      await page.evaluate(() => navigator.clipboard.writeText("nothing yet"));
      await button.focus();
      await page.keyboard.press("Enter");
      const said = page.locator(".kit-copy [role=status]").first();
      await said.filter({ hasText: /\S/ }).waitFor({ timeout: 5000 });
      found.copied = {
        from: await button.getAttribute("data-kit-copy"),
        said: await said.textContent(),
        text: await page.evaluate(() => navigator.clipboard.readText()),
      };
      await page.evaluate(() => {
        navigator.clipboard.writeText = () => Promise.reject(new Error("closed"));
        document.execCommand = () => false;
      });
      await page.keyboard.press("Enter");
      const box = page.locator(".kit-fallback");
      await box.waitFor({ timeout: 5000 });
      await said.filter({ hasText: "Selected" }).waitFor({ timeout: 5000 });
      found.fallback = {
        said: await said.textContent(),
        selected: await box.evaluate((b) => b.value.slice(b.selectionStart, b.selectionEnd)),
      };
    }
    const run = page.locator("[data-kit-run]");
    if (view.scheme === "light" && view.width === 1280 && (await run.count())) {
      await run.click();
      const told = page.locator(".kit-record--run [role=status]");
      await told.filter({ hasText: /^Ran|stopped/ }).waitFor({ timeout: 240_000 });
      found.ran = await told.textContent();
    }
    if (order.shots) {
      const name = `${kind}-${view.scheme}-${view.width}.png`;
      await page.screenshot({ path: join(order.shots, name), fullPage: order.full });
    }
    await page.close();
    seen.push(found);
  }
}
await browser.close();
process.stdout.write(JSON.stringify(seen));
