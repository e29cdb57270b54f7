/**
 * Prints which cases of the OCI specification hold for our command line and for other runtimes: `node
 * test/conformance/main.ts runc`.
 */
import { spawnSync } from "node:child_process";
import { toolWords } from "../../dev/tool-options.ts";
import { OciLab } from "./support/oci-lab.ts";
import { SUITE_CASES } from "./support/suite-cases.ts";

const words = toolWords(
  {
    run: "node test/conformance/main.ts",
    about:
      "Prints which cases of the OCI specification hold for shoal-oci and for other runtimes (default: runc). Needs root.",
  },
  "[runtime...]",
);
const others = words.length > 0 ? words : ["runc"];
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
