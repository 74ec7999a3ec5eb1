// A VM: why it is as it is, and what is done with it, by click and by keyboard.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { accessible, api, close, hasty, noImage, open, picture, removed, started, tabTo, unique } from "./browser.mjs";

const name = unique("life");
let id;

before(async () => {
  if (!noImage) id = await started(name, hasty(name, { display: true }));
});
after(async () => {
  if (!noImage) await removed(name);
});

test("its facts, its time line, its decision and what it uses", { skip: noImage }, async () => {
  const page = await open(`#/vms/${id}`);
  await page.getByRole("heading", { name }).waitFor();
  for (const word of ["decided", "created", "starting", "running"]) await page.locator(".life").getByText(word).first().waitFor();
  await page.locator(".verdict").getByText("The host's own rules").waitFor();
  const { body } = await api("GET", `/v1/vms/${id}`);
  for (const policy of body.decision.policies) await page.locator(".verdict").getByText(policy.name, { exact: true }).waitFor();
  await page.getByRole("meter", { name: "CPUs" }).waitFor();
  await page.getByText(body.asked.image.source).first().waitFor();
  await accessible(page, "vm");
  await picture(page, "vm");
  await close(page);
});

test("its display is looked at by click; a command without an agent is refused where it was typed", { skip: noImage }, async () => {
  const page = await open(`#/vms/${id}`);
  await tabTo(page, "Command, by the guest's /bin/sh");
  await page.keyboard.type("uname -a");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").filter({ hasText: "agent" }).waitFor();
  await page.getByRole("button", { name: "Screenshot" }).click();
  const screenshot = page.getByRole("img", { name: /The display of/ });
  await screenshot.waitFor();
  assert.ok((await screenshot.evaluate((canvas) => canvas.width)) >= 320);
  await accessible(page, "vm-guest");
  await picture(page, "vm-guest");
  await close(page);
});

test("paused by click, resumed by key, as others see at once", { skip: noImage }, async () => {
  const [page, other] = [await open(`#/vms/${id}`), await open(`#/vms/${id}`)];
  await page.getByRole("button", { name: "Pause" }).click();
  await page.locator(".title").getByText("paused").waitFor();
  await other.locator(".title").getByText("paused").waitFor();
  await tabTo(page, "Resume");
  await page.keyboard.press("Enter");
  await page.locator(".title").getByText("running").waitFor();
  await other.locator(".life").getByText("paused").waitFor();
  await close(page);
  await close(other);
});

test("a restart is asked about, and cancelled by Escape", { skip: noImage }, async () => {
  const page = await open(`#/vms/${id}`);
  await page.getByRole("button", { name: "Restart…" }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Restart…", "the focus comes back");
  await page.getByRole("button", { name: "Restart…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Restart" }).click();
  // The guest has its grace first.
  await page.locator(".doing").getByText("succeeded").waitFor({ timeout: 20_000 });
  await page.locator(".title").getByText("running").waitFor();
  await close(page);
});

test("stopped by key with a grace, and removed by click", { skip: noImage }, async () => {
  const page = await open(`#/vms/${id}`);
  await tabTo(page, "Stop…");
  await page.keyboard.press("Enter");
  const grace = page.getByRole("spinbutton", { name: /Grace period/ });
  await grace.waitFor();
  await tabTo(page, /Grace period/);
  await page.keyboard.type("0");
  await accessible(page, "stop-dialog");
  await picture(page, "stop-dialog");
  await page.keyboard.press("Enter");
  await page.locator(".title").getByText("exited").waitFor({ timeout: 20_000 });
  await page
    .locator(".life")
    .getByText(/QEMU quit|stopped/)
    .first()
    .waitFor();
  await accessible(page, "vm-ended");
  await picture(page, "vm-ended");
  await page.getByRole("button", { name: "Remove…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await page.getByRole("heading", { name: "VMs" }).waitFor();
  assert.equal((await api("GET", `/v1/vms/${id}`)).status, 404);
  await page.goto(`${new URL(page.url()).origin}/#/vms/${id}`);
  await page.getByRole("heading", { name: "No such VM" }).waitFor();
  await close(page);
});

test("killed by key", { skip: noImage }, async () => {
  const other = unique("killed");
  const its = await started(other);
  try {
    const page = await open(`#/vms/${its}`);
    await tabTo(page, "Kill…");
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    await tabTo(page, "Kill");
    await page.keyboard.press("Space");
    await page.locator(".title").getByText("exited").waitFor();
    await close(page);
  } finally {
    await removed(other);
  }
});
