/** End-to-end tests: real containers, namespaces, networks and daemons. Root only; they say so and fail without it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { importTests } from "./import-tests.ts";

if (process.getuid?.() === 0) {
  await importTests("test/e2e");
  await importTests("test/conformance");
} else {
  void test("end-to-end tests run as root", () => {
    assert.fail(
      "namespaces, mounts and cgroups need root: run as root, or only the units with `npm test -- unit`",
    );
  });
}
