// Policies: what is in force, what another one would have changed, and the configuration.

import assert from "node:assert/strict";
import { test } from "node:test";

import { accessible, api, close, component, open, picture, tabTo } from "./browser.mjs";

const policies = async () => (await api("GET", "/v1/policies")).body.policies;

test("each policy's digest, mode, counts and cost", async () => {
  const page = await open("#/policies");
  for (const { name, sha256, mode, evaluations } of await policies()) {
    const row = page.getByRole("row").filter({ has: page.getByRole("link", { name, exact: true }) });
    await row.getByText(sha256.slice(0, 12)).waitFor();
    await row.getByText(mode).waitFor();
    assert.equal(typeof evaluations, "number");
  }
  await page.getByRole("heading", { name: "Configuration" }).waitFor();
  await accessible(page, "policies");
  await picture(page, "policies");
  await close(page);
});

test("replayed with today's policies by key, and with another component by click", async () => {
  const page = await open("#/policies");
  await tabTo(page, "Replay");
  await page.keyboard.press("Enter");
  await page.getByRole("region", { name: "What would change" }).waitFor({ timeout: 30_000 });
  const [first] = await policies();
  if (first && component) {
    await page.getByLabel("In place of").selectOption(first.name);
    await page.getByRole("button", { name: "Replay" }).click();
    await page.getByText("no component was chosen").waitFor();
    await page.getByLabel("Component (.wasm)").setInputFiles(component);
    await page.getByRole("button", { name: "Replay" }).click();
    await page.getByText("no component was chosen").waitFor({ state: "detached" });
    await page
      .getByText(/Of [\d,]+ decisions?, \d+ would differ|cannot|refused|expected/)
      .first()
      .waitFor({ timeout: 30_000 });
    await accessible(page, "replay");
    await picture(page, "replay");
  }
  await close(page);
});

test("the configuration is tried and reloaded by click, and stepped back by key", async () => {
  const page = await open("#/policies");
  const before = (await api("GET", "/v1/configuration")).body.generation;
  await page.getByText(`Generation ${before}`).waitFor();
  await page.getByRole("button", { name: "Try what is on disk" }).click();
  await page.getByRole("heading", { name: /What is on disk would change/ }).waitFor({ timeout: 30_000 });
  await page.getByRole("button", { name: "Reload" }).click();
  await page.locator(".doing").filter({ hasText: "Reload the configuration" }).getByText("succeeded").waitFor();
  await page.getByText(`Generation ${before + 1}`).waitFor();
  await tabTo(page, "Step back…");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await tabTo(page, "Step back");
  await page.keyboard.press("Enter");
  await page.locator(".doing").filter({ hasText: "Step back" }).getByText("succeeded").waitFor();
  await close(page);
});
