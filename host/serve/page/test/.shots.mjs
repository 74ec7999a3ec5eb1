import { chromium } from "playwright-core";
const base = process.env.URL ?? "http://127.0.0.1:18080";
const out = "/tmp/page/shots"; import { mkdirSync } from "node:fs"; mkdirSync(out, { recursive: true });
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox","--disable-gpu","--disable-quic","--no-first-run","--disable-background-networking","--disable-component-update","--disable-sync"] });
const vms = (await (await fetch(base + "/v1/vms?all=true")).json()).vms;
const by = (t) => vms.find((v) => v.task === t)?.id ?? "none";
const ds = (await (await fetch(base + "/v1/decisions")).json()).decisions;
const den = ds.find((d) => d.outcome === "denied")?.id;
const places = { vms: "#/vms?ended=yes", vm: `#/vms/${by("echo")}`, vmpolicy: `#/vms/${by("medium")}`, ended: `#/vms/${by("oops")}`, console: `#/vms/${by("hostile")}/console`, start: "#/start", decisions: "#/decisions", decision: `#/decisions/${den}`, policies: "#/policies", storage: "#/storage" };
const want = process.argv[2]?.split(",") ?? Object.keys(places);
const sizes = { wide: [1400, 900], narrow: [360, 740] };
for (const scheme of (process.argv[3] ?? "light,dark").split(","))
  for (const size of (process.argv[4] ?? "wide,narrow").split(",")) {
    const [width, height] = sizes[size];
    const page = await browser.newPage({ viewport: { width, height }, colorScheme: scheme });
    page.on("console", (m) => ["error", "warning"].includes(m.type()) && console.log(scheme, size, m.type(), m.text().slice(0, 300)));
    page.on("pageerror", (e) => console.log("pageerror", e.message));
    for (const name of want) {
      await page.goto(base + "/" + places[name]); await page.waitForTimeout(name === "vm" ? 5500 : 1500);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (over > 0) console.log("horizontal scroll", name, size, over);
      await page.screenshot({ path: `${out}/${name}-${scheme}-${size}.png`, fullPage: true });
    }
    await page.close();
  }
await browser.close();
