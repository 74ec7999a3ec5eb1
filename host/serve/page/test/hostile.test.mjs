// Texts of tenants, guests and policies that want to be more than texts.

import assert from "node:assert/strict";
import { test } from "node:test";

import { close, fits, open, picture } from "./browser.mjs";

const EVIL = `<img src=x onerror=alert(1)>\u202egnp.exe\u0000\u001b[31m"'&{{7*7}}</td></table><script>alert(2)</script>\u200b${"wide".repeat(60)}`;

function vm() {
  const violation = { code: EVIL, field: EVIL, message: `${EVIL}\nnext line`, hint: EVIL };
  const policy = {
    name: EVIL,
    layer: "tenant",
    mode: "enforce",
    version: EVIL,
    sha256: "a".repeat(64),
    settings_sha256: "b".repeat(64),
    answer: "refused",
    changes: [{ field: EVIL, from: EVIL, to: { [EVIL]: EVIL } }],
    violations: [violation],
    fault: EVIL,
    contract_breaches: [EVIL],
    log: [{ level: "info", message: EVIL }],
    log_dropped: 3,
    cost: { micros: 1, peak_memory: 1, log_bytes: 1 },
  };
  return {
    id: "evil-1",
    task: EVIL,
    job: EVIL,
    tenant: EVIL,
    state: "failed",
    restarts: 0,
    changes: [
      { state: "created", at: "2026-11-30T01:00:00Z" },
      { state: "failed", at: "2026-11-30T01:00:01Z", reason: EVIL },
    ],
    takes: {
      resources: { cpus: 1, memory_mib: 32 },
      forwards: [{ label: EVIL, bind: "127.0.0.1", host: 1, guest: 2, protocol: "tcp" }],
      image: null,
    },
    asked: {
      tenant: EVIL,
      job: EVIL,
      name: EVIL,
      image: { source: `http://x/${EVIL}`, sha256: "c".repeat(64) },
      meta: { [EVIL]: EVIL, __proto__: "x" },
    },
    decision: {
      policies: [policy],
      host: { answer: "refused", violations: [violation] },
      launch: { warnings: [EVIL] },
      conflicts: [{ field: EVIL, writers: [{ policy: EVIL, to: EVIL }] }],
    },
  };
}

for (const size of [
  [1280, 800],
  [360, 740],
]) {
  test(`they stay texts, and break no layout, at ${size[0]} px`, async () => {
    const page = await open("#/storage", { size });
    const evil = vm();
    await page.route(/\/v1\/vms(\?|$)/, (route) => route.fulfill({ json: { vms: [evil] } }));
    await page.route("**/v1/vms/evil-1", (route) => route.fulfill({ json: evil }));
    const decision = {
      id: "d".repeat(64),
      outcome: "denied",
      time: "2026-11-30T01:00:00Z",
      task: evil.asked,
      decision: evil.decision,
      error: EVIL,
      masked: [EVIL],
    };
    await page.route(/\/v1\/decisions\?/, (route) => route.fulfill({ json: { decisions: [decision] } }));
    await page.route(/\/v1\/decisions\/d+/, (route) => route.fulfill({ json: decision }));
    const problem = {
      type: EVIL,
      title: EVIL,
      status: 403,
      detail: `${EVIL}\nnext`,
      causes: [EVIL],
      hint: EVIL,
      refused_by: EVIL,
      problems: [{ pointer: EVIL, found: EVIL, expected: EVIL, hint: EVIL }],
      decision: evil.decision,
    };
    await page.route(/\/v1\/jobs\/plan/, (route) =>
      route.fulfill({ status: 403, contentType: "application/problem+json", json: problem }),
    );
    for (const [what, place] of Object.entries({
      vms: "#/vms?ended=yes",
      vm: "#/vms/evil-1",
      decisions: "#/decisions",
      decision: `#/decisions/${"d".repeat(64)}`,
      start: "#/start",
    })) {
      await page.evaluate((place) => (location.hash = place), place);
      if (what === "start") await page.getByRole("button", { name: "Plan" }).click();
      await page.locator("main").getByText("onerror=alert(1)").filter({ visible: true }).first().waitFor();
      for (const summary of await page.locator("summary").all()) await summary.click();
      assert.equal(await page.locator("main img, main script").count(), 0, what);
      const text = await page.locator("main").innerText();
      assert.match(text, /\\u\{202e\}/, `${what} shows what would turn the text`);
      assert.doesNotMatch(text, /[\u202e\u0000\u001b]/, what);
      await fits(page, what);
      await picture(page, `hostile-${what}-${size[0]}`);
    }
    await close(page);
  });
}
