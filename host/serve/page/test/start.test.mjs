// A start by form and by text: checked, planned, refused at its place, and done.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { accessible, api, close, image, job, noImage, open, picture, removed, sha256, tabTo, unique } from "./browser.mjs";

const [clicked, typed, denied] = [unique("clicked"), unique("typed"), unique("denied")];

after(async () => {
  if (noImage) return;
  for (const name of [clicked, typed]) await removed(name);
});

async function fill(page, name) {
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Image URL").fill(image);
  await page.getByLabel("SHA-256").fill(sha256);
  await page.getByLabel("Memory in MiB").fill("32");
}

test("what is wrong stands at its place, in the form and in the text", async () => {
  const page = await open("#/start");
  await page.getByRole("button", { name: "Add a port" }).click();
  await page.getByLabel("Guest port").fill("70000");
  await page.getByRole("button", { name: "Check" }).click();
  await page.getByRole("heading", { name: "Check: not done" }).waitFor();
  const name = page.getByLabel("Name");
  assert.equal(await name.getAttribute("aria-invalid"), "true");
  const described = await name.getAttribute("aria-describedby");
  assert.match(await page.locator(`#${described}`).textContent(), /expected/);
  assert.equal(await page.getByLabel("Guest port").getAttribute("aria-invalid"), "true");
  await accessible(page, "start-wrong");
  await picture(page, "start-wrong");
  await page.getByRole("button", { name: "Text" }).click();
  const text = page.getByRole("textbox", { name: /^Job:/ });
  await text.fill(
    '{\n  "name": "x",\n  "driver": "qemu",\n  "config": {\n    "image_source": "ftp://x/",\n    "checksum": "00"\n  }\n}',
  );
  await page.getByRole("button", { name: "Check" }).click();
  await page.getByRole("button", { name: "line 5" }).click();
  assert.equal(
    await text.evaluate((area) => area.value.slice(area.selectionStart, area.selectionEnd).trim()),
    '"image_source": "ftp://x/",',
  );
  await text.fill("not JSON");
  await page.getByRole("button", { name: "Form" }).click();
  await page.getByText("the form knows JSON alone").waitFor();
  await close(page);
});

test("planned and started by click, from the form", { skip: noImage }, async () => {
  const page = await open("#/start");
  await fill(page, clicked);
  await page.getByRole("button", { name: "Check" }).click();
  await page.getByRole("heading", { name: "Check: the job is understood" }).waitFor();
  await page.getByRole("button", { name: "Plan" }).click();
  await page.getByRole("heading", { name: "Plan: it may run" }).waitFor();
  assert.match(await page.getByRole("region", { name: "Arguments" }).textContent(), /-machine|-M /);
  await accessible(page, "start-planned");
  await picture(page, "start-planned");
  await page.getByRole("button", { name: "Start", exact: true }).click();
  await page.getByRole("heading", { name: clicked }).waitFor({ timeout: 30_000 });
  await page.locator(".title").getByText("running").waitFor();
  await close(page);
});

test("started by keyboard, from text", { skip: noImage }, async () => {
  const page = await open("#/start");
  await tabTo(page, "Text");
  await page.keyboard.press("Enter");
  await tabTo(page, /^Job:/);
  await page.keyboard.press("Control+A");
  await page.keyboard.insertText(JSON.stringify(job(typed), null, 2));
  await tabTo(page, "Start");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: typed }).waitFor({ timeout: 30_000 });
  await close(page);
});

test("a start that is refused says by what and why, and is not begun twice", { skip: noImage }, async () => {
  const page = await open("#/start");
  const keys = [];
  page.on(
    "request",
    (request) =>
      request.method() === "POST" && request.url().includes("/v1/vms") && keys.push(request.headers()["idempotency-key"]),
  );
  await fill(page, denied);
  await page.getByLabel("Reaches").selectOption("internet");
  await page.getByRole("button", { name: "Start", exact: true }).click();
  await page.getByRole("heading", { name: "Start: not done" }).waitFor();
  await page.locator(".verdict").filter({ hasText: "The host's own rules" }).getByText("refused").waitFor();
  await accessible(page, "start-denied");
  await picture(page, "start-denied");
  assert.equal(keys.length, 1);
  assert.match(keys[0], /^[0-9a-f]{32}$/);
  const { body } = await api("GET", `/v1/decisions?outcome=denied`);
  assert.ok(body.decisions.some(({ task }) => task.name === denied));
  await close(page);
});
