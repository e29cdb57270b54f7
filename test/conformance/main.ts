/**
 * Prints which cases of the OCI specification hold for our command line and for other runtimes: node
 * test/conformance/main.ts [runc crun …]
 */
import { spawnSync } from "node:child_process";
import { OciLab } from "./support/oci-lab.ts";
import { SUITE_CASES } from "./support/suite-cases.ts";

const others = process.argv.slice(2).length > 0 ? process.argv.slice(2) : ["runc"];
const present = others.filter((name) => spawnSync(name, ["--version"]).status === 0);
for (const name of others) if (!present.includes(name)) console.log(`${name} is not installed: left out`);

async function verdict(runtime: string | undefined, run: (lab: OciLab) => Promise<void>): Promise<string> {
  const lab = await OciLab.create(runtime);
  try {
    await run(lab);
    return "pass";
  } catch (error) {
    if (process.env["VERBOSE"] !== undefined) console.error(error);
    return "FAIL";
  } finally {
    await lab.close();
  }
}

console.log(`| case | shoal-oci | ${present.join(" | ")} |`);
console.log(`| --- | --- | ${present.map(() => "---").join(" | ")} |`);
for (const [name, run] of SUITE_CASES) {
  const row = [await verdict(undefined, run)];
  for (const other of present) row.push(await verdict(other, run));
  console.log(`| ${name} | ${row.join(" | ")} |`);
}
