/**
 * The cases of the public validation suite, on our OCI command line. `node test/conformance/main.ts` sets other
 * runtimes beside it.
 */
import { after, before, test } from "node:test";
import { OciLab } from "./support/oci-lab.ts";
import { SUITE_CASES } from "./support/suite-cases.ts";

let lab: OciLab;
before(async () => {
  lab = await OciLab.create();
});
after(async () => {
  await lab.close();
});

for (const [name, run] of SUITE_CASES) {
  test(`OCI specification: ${name}`, async () => {
    await run(lab);
  });
}
