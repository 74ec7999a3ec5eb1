// The browser, the service that it looks at, and what no screen may do: break the content security policy, throw, or ask another host.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before } from "node:test";

import { chromium, request } from "playwright-core";

const axeFile = createRequire(import.meta.url).resolve("axe-core");
const from = process.env;
export const base = from.QHOST_PAGE_URL ?? "http://127.0.0.1:18080";
export const token = from.QHOST_PAGE_TOKEN;
export const tenantToken = from.QHOST_PAGE_TENANT_TOKEN;
export const image = from.QHOST_PAGE_IMAGE;
export const sha256 = from.QHOST_PAGE_SHA256;
export const component = from.QHOST_PAGE_COMPONENT;
const shots = from.QHOST_PAGE_SCREENSHOTS;

export const noImage = image && sha256 ? false : "QHOST_PAGE_IMAGE and QHOST_PAGE_SHA256 name no image";

let browser;
const contexts = new Set();
const broken = [];

before(async () => {
  browser = await chromium.launch({
    executablePath: from.QHOST_PAGE_CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
});

after(async () => {
  await browser?.close();
  assert.deepEqual(broken, []);
});

// A context whose pages are known to the service, unless `as` says by another token or by none.
export async function context({ scheme = "light", size = [1280, 800], as = token, motion = "no-preference" } = {}) {
  const made = await browser.newContext({
    ignoreHTTPSErrors: true,
    colorScheme: scheme,
    reducedMotion: motion,
    viewport: { width: size[0], height: size[1] },
  });
  made.setDefaultTimeout(60_000);
  contexts.add(made);
  if (as) {
    const answer = await made.request.post(`${base}/v1/session`, { data: { token: as }, headers: { Origin: base } });
    assert.equal(answer.status(), 204, await answer.text());
  }
  await made.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => {
      console.error(
        `content security policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`,
      );
    });
  });
  made.on("page", (page) => {
    page.on("pageerror", (error) => broken.push(`${page.url()}: ${error.stack ?? error.message}`));
    page.on("dialog", (dialog) => {
      broken.push(`${page.url()}: a dialog of the browser: ${dialog.message()}`);
      void dialog.dismiss();
    });
    page.on("console", (message) => {
      const text = message.text();
      // A refused request is said in the console too, and may be what is tested.
      if (
        message.type() === "error" &&
        !text.startsWith("Failed to load resource") &&
        !text.includes("ERR_INTERNET_DISCONNECTED")
      ) {
        broken.push(`${page.url()}: ${text}`);
      }
    });
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (!["data:", "blob:"].includes(url.protocol) && url.host !== new URL(base).host)
        broken.push(`another host was asked: ${url}`);
    });
  });
  return made;
}

// A page at a place of the page's, in a context of its own.
export async function open(place = "", how = {}) {
  const made = await context(how);
  const page = await made.newPage();
  await page.goto(`${base}/${place}`);
  return page;
}

export async function close(page) {
  contexts.delete(page.context());
  await page.context().close();
}

// The API, asked beside the page.
export async function api(method, path, body) {
  const made = await request.newContext({ ignoreHTTPSErrors: true });
  try {
    const answer = await made.fetch(`${base}${path}`, {
      method,
      ...(body === undefined ? {} : { data: body }),
      headers: token ? { Authorization: `Bearer ${token}` } : {},
    });
    const text = await answer.text();
    return { status: answer.status(), body: text.startsWith("{") ? JSON.parse(text) : text };
  } finally {
    await made.dispose();
  }
}

export function job(name, more = {}) {
  return {
    name,
    driver: "qemu",
    config: { image_source: image, checksum: sha256, ...more },
    resources: { cpus: 1, memory_mib: 32 },
  };
}

// The same in Nomad's form, which has a word for the grace period: one second, since the guest is deaf to its power button.
export function hasty(name, more = {}) {
  const task = {
    Name: name,
    Driver: "qemu",
    KillTimeout: 1e9,
    Config: { image_source: image, checksum: sha256, ...more },
    Resources: { Cores: 1, MemoryMB: 32 },
  };
  return { Job: { ID: name, Name: name, Type: "batch", TaskGroups: [{ Name: "group", Tasks: [task] }] } };
}

export function unique(what) {
  return `page-${what}-${Math.random().toString(36).slice(2, 8)}`;
}

// A VM that runs, with its id.
export async function started(name, asked = job(name)) {
  const begun = await api("POST", "/v1/vms", asked);
  assert.equal(begun.status, 202, JSON.stringify(begun.body));
  const { body } = await api("GET", `/v1/operations/${begun.body.id}/wait?timeout_s=60`);
  assert.equal(body.state, "succeeded", JSON.stringify(body));
  return body.vm;
}

// Away with the VMs of a name, however a test has left them.
export async function removed(name) {
  const { body } = await api("GET", "/v1/vms?all=true&limit=1000");
  for (const vm of body.vms.filter((vm) => vm.task === name)) {
    const killed = await api("POST", `/v1/vms/${vm.id}/kill`);
    if (killed.status === 202) await api("GET", `/v1/operations/${killed.body.id}/wait?timeout_s=30`);
    await api("DELETE", `/v1/vms/${vm.id}`);
  }
}

// Presses a key until what is focused has this name, as a reader without a mouse does.
export async function tabTo(page, name, key = "Tab") {
  for (let presses = 0; presses < 80; presses++) {
    const found = await page.evaluate(() => {
      const now = document.activeElement;
      if (!now) return "";
      const label = now.getAttribute("aria-label") ?? (now.labels?.[0]?.textContent || now.textContent || "");
      return label.trim().replace(/\s+/g, " ");
    });
    if (typeof name === "string" ? found === name : name.test(found)) return;
    await page.keyboard.press(key);
  }
  assert.fail(`${name} is not reached by ${key}`);
}

export async function accessible(page, what) {
  if (!(await page.evaluate(() => "axe" in globalThis))) {
    // By the browser's own door, since the page's policy lets no script in.
    const { readFile } = await import("node:fs/promises");
    await page.evaluate(await readFile(axeFile, "utf8"));
  }
  const violations = await page.evaluate(async () => {
    const { violations } = await globalThis.axe.run(document, { resultTypes: ["violations"] });
    return violations.map(({ id, help, nodes }) => ({
      id,
      help,
      nodes: nodes.map(({ html, failureSummary }) => `${html.slice(0, 200)} ${failureSummary}`),
    }));
  });
  assert.deepEqual(violations, [], what);
}

export async function fits(page, what) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.equal(over, 0, `${what} is wider than the window by ${over} px`);
}

export async function picture(page, name) {
  if (!shots) return;
  mkdirSync(shots, { recursive: true });
  await page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });
}
