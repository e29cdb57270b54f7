/** Unit tests: those beside their sources, what joins several parts in one process (integration), and the tidy test. */
import { importTests } from "./import-tests.ts";

const FOLDERS: readonly string[] = [
  "common",
  "model",
  "manager",
  "worker",
  "runtime",
  "api",
  "daemon",
  "cli",
  "dev",
  "bench",
  "test/integration",
];

for (const folder of FOLDERS) await importTests(folder);
await import("./tidy.test.ts");
