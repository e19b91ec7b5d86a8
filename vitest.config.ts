import { join } from "node:path";
import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";
import LongestFirst from "./test/sequencer.ts";

// The tests start hundreds of processes of the same few programs: each would spend its first second on compiling them.
process.env.NODE_COMPILE_CACHE ??= join(import.meta.dirname, "node_modules", ".cache", "compile");

export default defineConfig({
  // Vite warns about source maps of packages that come without their sources.
  logLevel: "error",
  test: {
    // Most tests wait more than they compute: two files at a time, on a machine of any size, keep their clocks honest.
    maxWorkers: 2,
    reporters: ["./test/reporter.ts"],
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        test: {
          name: "core",
          include: ["test/core/**/*.test.ts", "test/contract/**/*.test.ts"],
          // What is pure needs no process of its own.
          isolate: false,
          testTimeout: 60_000,
        },
      },
      {
        test: { name: "process", include: ["test/process/**/*.test.ts"], testTimeout: 60_000 },
      },
      {
        plugins: [
          cloudflareTest({
            wrangler: { configPath: "./wrangler.toml" },
            miniflare: {
              bindings: {
                ADMIN_KEY: "operator-key-of-the-tests",
                SERVER_KEY: "server-key-of-the-tests",
                PREVIOUS_SERVER_KEY: "server-key-before",
                // Nothing is embedded in the background, but where a test says so.
                DEFAULT_BACKBONE: "text-static-1",
                // Nothing is there: test/worker/fake-batch-endpoint.ts plays it. An answer may take 0.3 seconds.
                BATCH_URL: "http://batch.test/graft/",
                BATCH_SECRET: "whsec_c2VjcmV0IG9mIHRoZSBiYXRjaCBlbmRwb2ludCBvZiB0aGUgdGVzdHM=",
                PREVIOUS_BATCH_SECRET: "whsec_c2VjcmV0IG9mIHRoZSBiYXRjaCBlbmRwb2ludCBiZWZvcmU=",
                BATCH_TIMEOUT_SECONDS: "0.3",
                BATCH_SILENCE_SECONDS: "60",
                CORS_ORIGINS: "https://app.test",
                WEBHOOK_ORIGINS: "http://hooks.internal:9000, https://192.168.1.7",
                WEBHOOK_TIMEOUT_SECONDS: "0.3",
                COUNT_SECONDS: "0.05",
              },
            },
          }),
        ],
        test: {
          name: "worker",
          include: ["test/worker/**/*.test.ts", "test/contract/**/*.test.ts"],
          // A runtime for each file would take as long as the tests. Tests share nothing but the isolate: tenants are new.
          isolate: false,
          testTimeout: 60_000,
        },
      },
      {
        test: {
          name: "e2e",
          // Servers embed nothing in the background, which would take time from what is tested.
          env: { DEFAULT_BACKBONE: "text-static-1" },
          // The generator of clients needs the compiler of TypeScript 5, whose interface version 7 does not have.
          alias: { typescript: "@ts-morph/common/dist/typescript.js" },
          server: { deps: { inline: ["openapi-typescript"] } },
          include: ["test/e2e/**/*.test.ts"],
          globalSetup: "test/e2e/bundles.ts",
          // After the others, not among them.
          sequence: { groupOrder: 1 },
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
