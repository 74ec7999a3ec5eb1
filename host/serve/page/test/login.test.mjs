// Who looks: an operator and a tenant by their tokens, and one who has none.

import assert from "node:assert/strict";
import { test } from "node:test";

import { api, close, open, tabTo, tenantToken, token } from "./browser.mjs";

const noToken = token ? false : "QHOST_PAGE_TOKEN names no token";
const noTenant = tenantToken ? false : "QHOST_PAGE_TENANT_TOKEN names no token";

test("an operator logs in by click, and out by key", { skip: noToken }, async () => {
  const page = await open("#/policies", { as: null });
  const field = page.getByLabel("Token");
  await field.fill("qhost_not-one");
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("alert").waitFor();
  assert.equal(await field.getAttribute("aria-invalid"), "true");
  await field.fill(token);
  await page.getByRole("button", { name: "Log in" }).click();
  // To where the reader wanted to go.
  await page.getByRole("heading", { name: "Policies" }).waitFor();
  assert.equal(await page.evaluate(() => document.cookie), "", "no script reads the session");
  await page.reload();
  await page.getByRole("heading", { name: "Policies" }).waitFor();
  await tabTo(page, "Log out");
  await page.keyboard.press("Enter");
  await page.getByLabel("Token").waitFor();
  await page.reload();
  await page.getByLabel("Token").waitFor();
  await close(page);
});

test("a tenant logs in by keyboard, and sees what is its own", { skip: noTenant }, async () => {
  const page = await open("#/vms", { as: null });
  await page.getByLabel("Token").waitFor();
  await tabTo(page, "Token");
  await page.keyboard.insertText(tenantToken);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "VMs" }).waitFor();
  assert.equal(await page.getByRole("link", { name: "Policies" }).count(), 0);
  await page.evaluate(() => (location.hash = "#/policies"));
  await page.getByText("This is for operators.").waitFor();
  await page.evaluate(() => (location.hash = "#/storage"));
  await page.getByRole("heading", { name: "Volumes" }).waitFor();
  assert.equal(await page.getByRole("heading", { name: "All tenants together" }).count(), 0);
  await close(page);
});

test("a caller who is known needs no login", { skip: token ? "the service asks for tokens" : false }, async () => {
  const { body } = await api("GET", "/v1/caller");
  const page = await open("");
  await page.getByText(body.name).waitFor();
  assert.equal(await page.getByRole("button", { name: "Log out" }).count(), 0);
  await close(page);
});
