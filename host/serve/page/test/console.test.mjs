// A console: typed into, left by its key, followed after the VM's end, and what a hostile guest writes.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { accessible, api, close, noImage, open, picture, removed, started, tabTo, unique } from "./browser.mjs";

const name = unique("console");
let id;

before(async () => {
  if (!noImage) id = await started(name);
});
after(async () => {
  if (!noImage) await removed(name);
});

// Typed until it is echoed: firmware that still boots swallows what is typed.
async function echoed(page, text) {
  for (let tries = 0; tries < 8; tries++) {
    await page.keyboard.type(text);
    const isThere = screen(page).getByText(text).first().waitFor({ timeout: 1500 });
    if (
      await isThere.then(
        () => true,
        () => false,
      )
    )
      return;
  }
  assert.fail(`${text} is not echoed`);
}

const screen = (page) => page.locator(".xterm-rows");

test("what is typed goes to the guest, which echoes it; Ctrl-] leaves", { skip: noImage }, async () => {
  const page = await open(`#/vms/${id}`);
  await tabTo(page, "Console");
  await page.keyboard.press("Enter");
  await page.getByText("what is typed goes to the guest").waitFor();
  await echoed(page, "typed-by-hand");
  // Tab is the guest's.
  await page.keyboard.press("Tab");
  assert.ok(await page.evaluate(() => document.activeElement.classList.contains("xterm-helper-textarea")));
  await accessible(page, "console");
  await picture(page, "console");
  await page.keyboard.press("Control+]");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Back to the VM");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name }).waitFor();
  // By click, and what was said before is said again.
  await page.getByRole("link", { name: "Console" }).click();
  await screen(page).getByText("typed-by-hand").first().waitFor();
  await page.locator(".xterm-screen").click();
  await page.keyboard.type("again");
  await screen(page).getByText("again").waitFor();
  await page.getByLabel("For a screen reader").check();
  await page.locator(".xterm-accessibility").getByText("typed-by-hand").first().waitFor({ state: "attached" });
  await close(page);
});

test("a connection that is lost is made again, with another ticket", { skip: noImage }, async () => {
  const page = await open(`#/vms/${id}/console`);
  await page.getByText("what is typed goes to the guest").waitFor();
  await page.context().setOffline(true);
  // A connection that is there already does not notice, so that it is the next one that is tried.
  await page.reload().catch(() => {});
  await page.context().setOffline(false);
  await page.goto("about:blank");
  await page.goBack();
  await page.getByText("what is typed goes to the guest").waitFor({ timeout: 20_000 });
  await close(page);
});

test("the end of the VM is said, and its console is read afterwards", { skip: noImage }, async () => {
  const page = await open(`#/vms/${id}/console`);
  await page.getByText("what is typed goes to the guest").waitFor();
  await api("POST", `/v1/vms/${id}/kill`);
  await page.getByText("the VM has ended").waitFor();
  await page.reload();
  await page.getByText("the VM has ended").waitFor();
  await screen(page).getByText("typed-by-hand").first().waitFor();
  await close(page);
});

const HOSTILE = [
  "\x1b]0;owned\x07",
  "\x1b]8;;javascript:alert(1)\x07a link\x1b]8;;\x07 ",
  "\x1b]52;c;aGFja2Vk\x07",
  "\x1b[38;2;255;100;100mtrue colour\x1b[0m ",
  "<img src=x onerror=alert(1)>",
  "<script>alert(1)</script>",
  "\x1b[6n\x1b[c\x1b[>c\x1b[18t",
  "\x1b[?1049h\x1b[2J\x1b[Hother screen\x1b[?1049l",
  "\x9d0;owned\x9c",
  "\x1bP+q544e\x1b\\",
  "\x1b[3;0;0t\x1b[8;999;999t",
  "\x1b[?1000h\x1b[?2004h",
  "\r\nstill here",
];

// A console that no guest of the tests writes is the answer of a service that stands in.
test("what a hostile guest writes is drawn, and does nothing", async () => {
  const page = await open("#/storage");
  const vm = { id: "hostile-1", task: "hostile", job: "hostile", tenant: "t", state: "exited", changes: [], restarts: 0 };
  await page.route("**/v1/vms/hostile-1", (route) => route.fulfill({ json: vm }));
  const bytes = Buffer.from(HOSTILE.join(""), "latin1").toString("base64");
  await page.route("**/v1/vms/hostile-1/console*", (route) =>
    route.fulfill({ contentType: "text/event-stream", body: `id: 1-0\ndata: ${JSON.stringify({ bytes })}\n\n` }),
  );
  const sent = [];
  page.on("websocket", (socket) => sent.push(socket.url()));
  await page.evaluate(() => (location.hash = "#/vms/hostile-1/console"));
  await screen(page).getByText("still here").waitFor();
  await screen(page).getByText("<script>alert(1)</script>").waitFor();
  assert.match(await page.title(), /VMs · qhost/);
  assert.equal(await page.locator(".tube img, .tube script, .tube a").count(), 0);
  // Colours of a guest's own are shown, by no inline style that the page's policy refuses.
  const colour = await screen(page)
    .getByText("true colour")
    .evaluate((element) => getComputedStyle(element).color);
  assert.equal(colour, "rgb(255, 100, 100)");
  assert.deepEqual(sent, []);
  await screen(page).getByText("a link").click({ force: true });
  await accessible(page, "console-hostile");
  await picture(page, "console-hostile");
  await close(page);
});
