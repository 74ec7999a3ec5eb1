// Each screen in light and dark, wide and narrow: nothing that axe finds, nothing wider than the window, and a picture to look at.

import { after, before, test } from "node:test";

import { accessible, api, base, close, fits, job, noImage, open, picture, removed, started, token, unique } from "./browser.mjs";

const name = unique("looked-at");
const places = {
  vms: ["#/vms?ended=yes", "VMs"],
  start: ["#/start", "Start a VM"],
  decisions: ["#/decisions", "Decisions"],
  policies: ["#/policies", "Policies"],
  storage: ["#/storage", "Storage and quotas"],
  nowhere: ["#/nowhere", "Not here"],
};

before(async () => {
  if (noImage) return;
  const id = await started(name, job(name, { port_map: { http: 80 } }));
  const refused = unique("refused");
  const begun = await api("POST", "/v1/vms", job(refused, { egress: "internet" }));
  await api("GET", `/v1/operations/${begun.body.id}/wait?timeout_s=30`);
  const { body } = await api("GET", "/v1/decisions?outcome=denied");
  Object.assign(places, {
    vm: [`#/vms/${id}`, name],
    console: [`#/vms/${id}/console`, `Console of ${name}`],
    decision: [`#/decisions/${body.decisions[0].id}`, body.decisions[0].task.name],
  });
});
after(async () => {
  if (!noImage) await removed(name);
});

for (const scheme of ["light", "dark"]) {
  for (const [width, size] of Object.entries({ wide: [1440, 900], narrow: [360, 740], smallest: [320, 640] })) {
    // Of the smallest window it is the width alone that is looked at, which is the same in both.
    if (width === "smallest" && scheme === "dark") continue;
    test(`every screen, ${scheme} and ${width}`, async () => {
      const page = await open("", { scheme, size, motion: width === "wide" ? "no-preference" : "reduce" });
      for (const [what, [place, heading]] of Object.entries(places)) {
        await page.goto(`${base}/${place}`);
        await page.getByRole("heading", { name: heading, exact: true }).waitFor();
        await page.waitForLoadState("load");
        // What a screen reads first is there.
        await page.locator("main .loading").first().waitFor({ state: "detached" });
        await fits(page, `${what}, ${width}`);
        if (width !== "smallest") await accessible(page, `${what}, ${scheme}, ${width}`);
        await picture(page, `${what}-${scheme}-${width}`);
      }
      await close(page);
    });
  }
}

test("the login, in light and dark", { skip: token ? false : "the service knows the caller without a token" }, async () => {
  for (const scheme of ["light", "dark"]) {
    const page = await open("#/vms", { scheme, as: null, size: [360, 740] });
    await page.getByLabel("Token").waitFor();
    await accessible(page, `login, ${scheme}`);
    await fits(page, "login");
    await picture(page, `login-${scheme}`);
    await close(page);
  }
});
