import { defineConfig } from "vite";

export default defineConfig({
  build: {
    outDir: "built",
    target: "es2022",
    // The page's policy lets no inline text and no data: font in, so that all are files.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
  },
});
