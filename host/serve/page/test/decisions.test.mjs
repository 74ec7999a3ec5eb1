// Decisions: what was denied, by whom, searched by click and by key, and one of them in full.

import assert from "node:assert/strict";
import { before, test } from "node:test";

import { accessible, api, close, job, noImage, open, picture, tabTo, unique } from "./browser.mjs";

const name = unique("refused");

before(async () => {
  if (noImage) return;
  const begun = await api("POST", "/v1/vms", job(name, { egress: "internet" }));
  await api("GET", `/v1/operations/${begun.body.id}/wait?timeout_s=30`);
});

test("searched and opened by click", { skip: noImage }, async () => {
  const page = await open("#/decisions");
  await page.getByLabel("Outcome").selectOption("denied");
  await page.getByLabel("Search").fill(name);
  await page.getByText("1 decision", { exact: true }).waitFor();
  const row = page.getByRole("row").filter({ hasText: name });
  await row.getByText("denied").waitFor();
  await picture(page, "decisions");
  await page.getByRole("button", { name: "Last hour" }).click();
  await row.waitFor();
  await page.getByRole("button", { name: "Last night", exact: true }).click();
  assert.match(page.url(), /since=\d{4}-\d\d-\d\dT18%3A00&until=\d{4}-\d\d-\d\dT08%3A00/);
  await page.getByRole("button", { name: "Any time" }).click();
  await page.getByRole("button", { name: "Denied last night" }).click();
  assert.match(page.url(), /outcome=denied/);
  await page.getByRole("button", { name: "Any time" }).click();
  await row.getByRole("link").click();
  await page.getByRole("heading", { name }).waitFor();
  await page.getByText("The host's own rules").waitFor();
  await page.locator(".hint").first().waitFor();
  await page.getByText("The whole record").click();
  await page.getByRole("region", { name: "The whole record" }).waitFor();
  await accessible(page, "decision");
  await picture(page, "decision");
  await close(page);
});

test("searched and opened by keyboard; an empty list says what to do", { skip: noImage }, async () => {
  const page = await open("#/decisions");
  await page.getByRole("heading", { name: "Decisions" }).waitFor();
  await page.keyboard.press("/");
  await page.keyboard.type(name);
  await page.getByText("1 decision", { exact: true }).waitFor();
  await tabTo(page, /^\d\d:\d\d:\d\d$/);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name }).waitFor();
  await page.goBack();
  await page.getByRole("heading", { name: "Decisions" }).waitFor();
  await page.keyboard.press("/");
  await page.keyboard.type(" and nothing like it");
  await page.getByText("No decision is like that").waitFor();
  await close(page);
});
