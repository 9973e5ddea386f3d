import { defineConfig } from "vite";

// One script, one style sheet and one font, with fixed names: the server sends ETags, and a rebuild of the same sources
// gives the same bytes, which a test compares.
export default defineConfig({
  base: "",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    target: "es2022",
    cssTarget: ["chrome125", "firefox128", "safari17.5"],
    cssCodeSplit: false,
    modulePreload: false,
    assetsInlineLimit: 0,
    reportCompressedSize: false,
    rolldownOptions: {
      input: "src/main.tsx",
      output: {
        entryFileNames: "app.js",
        chunkFileNames: "[name].js",
        assetFileNames: ({ names }) => (names[0]?.endsWith(".css") ? "app.css" : "[name][extname]"),
        codeSplitting: false,
      },
    },
  },
});
