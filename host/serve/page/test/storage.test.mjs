// Storage: bars that say what is left, volumes by click and by key, images.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { api, close, noImage, open, picture, tabTo, unique } from "./browser.mjs";

const [clicked, typed, copied] = [unique("volume"), unique("typed"), unique("copied")];

after(async () => {
  for (const name of [clicked, typed, copied]) await api("DELETE", `/v1/volumes/${name}`);
});

test("quotas are bars with words", async () => {
  const page = await open("#/storage");
  const { body } = await api("GET", "/v1/quotas");
  await page.getByRole("heading", { name: "All tenants together" }).waitFor();
  for (const { tenant, quota } of body.quotas) {
    const panel = page
      .locator("section.panel")
      .filter({ has: page.getByRole("heading", { name: tenant ? `Tenant ${tenant}` : "All tenants together", exact: true }) });
    const words = await panel.textContent();
    assert.match(words, quota.vms === null || quota.vms === undefined ? /no bound/ : /left/);
    for (const meter of await panel.getByRole("meter").all()) assert.match(await meter.getAttribute("aria-valuetext"), /left$/);
  }
  await picture(page, "storage");
  await close(page);
});

test("a volume is created, enlarged and removed by click", async () => {
  const page = await open("#/storage");
  await page.getByLabel("New volume", { exact: true }).fill(clicked);
  await page.getByLabel("Size in MiB").fill("1");
  await page.getByRole("button", { name: "Create" }).click();
  const row = page.getByRole("row").filter({ hasText: clicked });
  await row.getByText("1 MiB taken").waitFor();
  await row.getByRole("button", { name: /Enlarge/ }).click();
  await page.getByLabel("New size in MiB").fill("3");
  await page.getByRole("dialog").getByRole("button", { name: "Enlarge" }).click();
  await row.getByText("3 MiB taken").waitFor();
  await row.getByRole("button", { name: /Copy/ }).click();
  await page.getByLabel("The copy's name").fill(copied);
  await page.getByRole("dialog").getByRole("button", { name: "Copy" }).click();
  const copy = page.getByRole("row").filter({ hasText: copied });
  await copy.getByText("3 MiB taken").waitFor();
  await copy.getByRole("button", { name: /Remove/ }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await copy.waitFor({ state: "detached" });
  // The same name once more is refused where it was asked for.
  await page.getByLabel("New volume", { exact: true }).fill(clicked);
  await page.getByRole("button", { name: "Create" }).click();
  await page.getByRole("alert").filter({ hasText: "there already" }).waitFor();
  await row.getByRole("button", { name: /Remove/ }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await row.waitFor({ state: "detached" });
  await close(page);
});

test("the same by keyboard", async () => {
  const page = await open("#/storage");
  await page.getByRole("heading", { name: "Volumes" }).waitFor();
  await tabTo(page, "New volume");
  await page.keyboard.type(typed);
  await tabTo(page, "Size in MiB");
  await page.keyboard.press("Control+A");
  await page.keyboard.type("2");
  await page.keyboard.press("Enter");
  await page.getByRole("row").filter({ hasText: typed }).waitFor();
  await tabTo(page, `Remove ${typed}`, "Shift+Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await tabTo(page, "Remove");
  await page.keyboard.press("Enter");
  await page.getByRole("row").filter({ hasText: typed }).waitFor({ state: "detached" });
  await close(page);
});

test("an image is fetched by key, and one with another digest is not", { skip: noImage }, async () => {
  const page = await open("#/storage");
  await page.getByRole("heading", { name: "Images" }).waitFor();
  await tabTo(page, "Fetch an image from");
  await page.keyboard.type(process.env.QHOST_PAGE_IMAGE);
  await tabTo(page, "Checksum");
  await page.keyboard.type(`sha256:${"0".repeat(64)}`);
  await page.keyboard.press("Enter");
  await page.getByRole("alert").filter({ hasText: "0000000000" }).waitFor();
  await page.getByLabel("Checksum").fill(`sha256:${process.env.QHOST_PAGE_SHA256}`);
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: `Remove image ${process.env.QHOST_PAGE_SHA256.slice(0, 12)}` }).waitFor();
  await close(page);
});

test("an image that is not used is removed", async (t) => {
  const { body } = await api("GET", "/v1/images");
  const { body: vms } = await api("GET", "/v1/vms?limit=1000");
  const used = new Set(vms.vms.map((vm) => vm.takes?.image?.sha256));
  const free = body.images.find(({ sha256 }) => !used.has(sha256));
  if (!free) return t.skip("all stored images are used");
  const page = await open("#/storage");
  await page.getByRole("button", { name: `Remove image ${free.sha256.slice(0, 12)}`, exact: true }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await page
    .getByRole("button", { name: `Remove image ${free.sha256.slice(0, 12)}`, exact: true })
    .waitFor({ state: "detached" });
  await close(page);
});
